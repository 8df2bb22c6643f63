// A GGUF file: its model, tokenizer and template.
#include "diffulex_edge/chat_template.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/tokenizer.h"
#include "input_folder.h"
#include "model_files/gguf_file.h"
#include "model_reading.h"
#include "readers.h"
#include "text_reading.h"

namespace diffulex_edge::fuzz {

void read_gguf(std::string_view input) {
  static InputFolder folder({"model.gguf"});
  folder.fill(input);
  const std::filesystem::path file = folder / "model.gguf";
  static_cast<void>(GgufFile(file));  // all else begins with it
  read_or_refuse([&] { read_first_rows(Checkpoint(file)); });
  read_or_refuse([&] { use_tokenizer(Tokenizer(file), "A text: 1 + 1 = 2"); });
  read_or_refuse([&] {
    if (const auto found = ChatTemplate::find(file)) {
      use_template(*found);
    }
  });
  use_model(load_model(file));
}

}  // namespace diffulex_edge::fuzz
