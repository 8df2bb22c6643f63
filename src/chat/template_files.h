// The chat template that lies beside a model's tokenizer.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "chat/value.h"

namespace diffulex_edge::chat {

struct TemplateText {
  std::string text;
  std::string name;  // the file, and the key in it
};

struct TemplateFiles {
  TemplateText usual;
  std::optional<TemplateText> with_tools;
  std::vector<std::pair<std::string, Value>> special_tokens;  // "bos_token" and its text
};

// Nothing where the folder has no template. Throws Error{kBadFile} for broken files.
std::optional<TemplateFiles> find_template_files(const std::filesystem::path& folder);

}  // namespace diffulex_edge::chat
