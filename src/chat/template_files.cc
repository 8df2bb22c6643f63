#include "chat/template_files.h"

#include <array>
#include <nlohmann/json.hpp>

#include "core/mapped_file.h"
#include "diffulex_edge/error.h"
#include "model_files/model_files.h"

namespace diffulex_edge::chat {
namespace {

constexpr std::size_t kMaxConfigBytes = std::size_t{32} << 20U;
constexpr std::size_t kMaxTemplateBytes = std::size_t{4} << 20U;

TemplateText read_text(const std::filesystem::path& path) {
  const MappedFile file(path);
  if (file.bytes().size() > kMaxTemplateBytes) {
    throw Error(ErrorCode::kBadFile, path.string(),
                std::to_string(file.bytes().size()) + " bytes are more than a template may have (" +
                    std::to_string(kMaxTemplateBytes) + ")");
  }
  std::string text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  file.check();
  return {std::move(text), path.string()};
}

nlohmann::json read_object(const std::filesystem::path& path) {
  if (!has_document(path)) {
    return nlohmann::json::object();
  }
  nlohmann::json document = read_document(path, kMaxConfigBytes);
  if (!document.is_object()) {
    throw Error(ErrorCode::kBadFile, path.string(), "is not a JSON object");
  }
  return document;
}

std::optional<std::string> text_of(const nlohmann::json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found != object.end() && found->is_string() ? std::optional(found->get<std::string>()) : std::nullopt;
}

// From a list of templates with their names.
void read_named(const nlohmann::json& list, const std::string& where, TemplateFiles& files, bool& found) {
  for (const nlohmann::json& each : list) {
    const auto name = text_of(each, "name");
    const auto text = text_of(each, "template");
    if (!name || !text) {
      throw Error(ErrorCode::kBadFile, where, "is not a list of objects with 'name' and 'template'");
    }
    const TemplateText entry{*text, where + ": '" + *name + "'"};
    if (*name == "default") {
      files.usual = entry;
      found = true;
    } else if (*name == "tool_use") {
      files.with_tools = entry;
    }
  }
  if (!found) {
    throw Error(ErrorCode::kBadFile, where, "has no template of the name 'default'");
  }
}

// From `chat_template` of a JSON file.
bool read_member(const nlohmann::json& document, const std::filesystem::path& path, TemplateFiles& files) {
  const auto member = document.find("chat_template");
  if (member == document.end() || member->is_null()) {
    return false;
  }
  const std::string where = path.string() + ": 'chat_template'";
  bool found = false;
  if (member->is_string()) {
    files.usual = {member->get<std::string>(), where};
    found = true;
  } else if (member->is_array()) {
    read_named(*member, where, files, found);
  } else {
    throw Error(ErrorCode::kBadFile, where, "is neither a string nor a list");
  }
  return found;
}

// A token is a string, or an object with "content".
std::optional<std::string> token_text(const nlohmann::json& value) {
  if (value.is_string()) {
    return value.get<std::string>();
  }
  return text_of(value, "content");
}

// As transformers collects them: special_tokens_map.json counts where tokenizer_config.json doesn't list the added
// tokens.
std::vector<std::pair<std::string, Value>> read_special_tokens(const nlohmann::json& config,
                                                               const std::filesystem::path& folder) {
  nlohmann::json merged = config;
  if (!config.contains("added_tokens_decoder")) {
    merged.update(read_object(folder / "special_tokens_map.json"));
  }
  if (const auto extra = merged.find("extra_special_tokens"); extra != merged.end() && extra->is_object()) {
    merged.update(*extra);
  }
  std::vector<std::pair<std::string, Value>> tokens;
  for (const auto& [key, value] : merged.items()) {
    const auto text = key.ends_with("_token") ? token_text(value) : std::nullopt;
    if (text) {
      tokens.emplace_back(key, Value::text(*text));
    }
  }
  return tokens;
}

}  // namespace

std::optional<TemplateFiles> find_template_files(const std::filesystem::path& folder) {
  const auto documents = hold_documents(folder);
  const std::filesystem::path config_path = folder / "tokenizer_config.json";
  const std::filesystem::path own_path = folder / "chat_template.jinja";
  const std::filesystem::path tools_path = folder / "additional_chat_templates" / "tool_use.jinja";
  const std::filesystem::path json_path = folder / "chat_template.json";
  const nlohmann::json config = read_object(config_path);
  TemplateFiles files;
  if (has_document(own_path)) {
    files.usual = read_text(own_path);
    if (has_document(tools_path)) {
      files.with_tools = read_text(tools_path);
    }
  } else if (!read_member(config, config_path, files) && !read_member(read_object(json_path), json_path, files)) {
    return std::nullopt;
  }
  files.special_tokens = read_special_tokens(config, folder);
  return files;
}

}  // namespace diffulex_edge::chat
