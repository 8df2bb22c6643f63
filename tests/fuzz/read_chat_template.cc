// A chat template, rendered.
#include "diffulex_edge/chat_template.h"
#include "input_folder.h"
#include "readers.h"
#include "text_reading.h"

namespace diffulex_edge::fuzz {

void read_chat_template(std::string_view input) {
  static InputFolder folder(
      {"chat_template.jinja", "tokenizer_config.json", "chat_template.json", "special_tokens_map.json"});
  folder.fill(input);
  if (const auto found = ChatTemplate::find(folder.path())) {
    use_template(*found);
  }
}

}  // namespace diffulex_edge::fuzz
