// render_chat: JSON objects on stdin, one a line; JSON on stdout, one a line: {"text": ...} or {"error": ..., "code":
// ...}. An object has "folder", a model's, or "template", and "messages"; perhaps "tools", "variables", "now" (seconds)
// and "add_generation_prompt". The answer to a line comes before the next is read. Lets Python tests reach chat
// templates.
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "diffulex_edge/chat_template.h"
#include "diffulex_edge/error.h"

namespace {

using nlohmann::ordered_json;

diffulex_edge::ChatTemplate make_template(const ordered_json& request) {
  if (request.contains("template")) {
    return diffulex_edge::ChatTemplate(request["template"].get<std::string>());
  }
  const auto folder = request["folder"].get<std::string>();
  auto found = diffulex_edge::ChatTemplate::find(folder);
  if (!found) {
    throw diffulex_edge::Error(diffulex_edge::ErrorCode::kBadFile, folder, "there is no chat template");
  }
  return *found;
}

std::string render(const ordered_json& request) {
  diffulex_edge::ChatTemplateOptions options;
  options.add_generation_prompt = request.value("add_generation_prompt", false);
  const auto text = [&](const char* key) { return request.contains(key) ? request[key].dump() : std::string(); };
  options.tools = text("tools");
  options.variables = text("variables");
  if (request.contains("now")) {
    options.now = std::chrono::system_clock::from_time_t(request["now"].get<std::time_t>());
  }
  return make_template(request).render(request["messages"].dump(), options);
}

}  // namespace

int main() try {
  for (std::string line; std::getline(std::cin, line);) {
    ordered_json answer;
    try {
      answer["text"] = render(ordered_json::parse(line));
    } catch (const diffulex_edge::Error& error) {
      answer["error"] = error.what();
      answer["code"] = std::string(to_string(error.code()));
    }
    std::cout << answer.dump(-1, ' ', true) << '\n' << std::flush;
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
