// Lines of JSON: evaluation data, and tasks with answers.
#include "diffulex_edge/generation_evaluation.h"
#include "diffulex_edge/tokenizer.h"
#include "input_folder.h"
#include "readers.h"
#include "runtime/token_data.h"

namespace diffulex_edge::fuzz {

void read_jsonl(std::string_view input) {
  static InputFolder folder({"data.jsonl"});
  static const Tokenizer tokenizer = [] {
    InputFolder files({"tokenizer.json"});
    files.fill(R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "\u0120": 3}, "merges": [["a", "b"]]},)"
               R"( "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},)"
               R"( "decoder": {"type": "ByteLevel"}, "added_tokens": []})");
    return Tokenizer(files.path());
  }();
  folder.fill(input);
  const std::filesystem::path file = folder / "data.jsonl";
  read_or_refuse(
      [&] { static_cast<void>(read_token_sequences(file, &tokenizer, {.length = 64, .vocab_size = 1000})); });
  read_or_refuse(
      [&] { static_cast<void>(read_generation_tasks(file, &tokenizer, {.vocab_size = 1000, .has_judge = true})); });
}

}  // namespace diffulex_edge::fuzz
