// A template's syntax tree from its text.
#pragma once

#include <string>
#include <string_view>

#include "chat/syntax.h"

namespace diffulex_edge::chat {

struct ParsedTemplate {
  // Throws Error whose place is "NAME: line N": kBadFile for wrong syntax, kUnsupported for what this room hasn't.
  ParsedTemplate(std::string_view text, std::string given_name);

  std::string name;
  Block block;
};

}  // namespace diffulex_edge::chat
