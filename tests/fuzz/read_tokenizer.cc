// A tokenizer's files of any kind, and a text for it.
#include "diffulex_edge/tokenizer.h"
#include "input_folder.h"
#include "readers.h"
#include "text_reading.h"

namespace diffulex_edge::fuzz {

void read_tokenizer(std::string_view input) {
  static InputFolder folder({"tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model", "vocab.txt",
                             "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json"});
  folder.fill(input);
  std::string_view text = "In the  beginning\n\t<|mask|>\xC3\xA4 \xE2\x82\xAC 3.14";
  for (const auto& [name, content] : split_input(input)) {
    if (name == "text") {
      text = content;
    }
  }
  use_tokenizer(Tokenizer(folder.path()), text);
}

}  // namespace diffulex_edge::fuzz
