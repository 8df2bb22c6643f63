// A safetensors file: as a checkpoint, as evaluation data, and as `inspect` shows it.
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/error.h"
#include "input_folder.h"
#include "model_reading.h"
#include "readers.h"
#include "runtime/token_data.h"

namespace diffulex_edge::fuzz {

void read_safetensors(std::string_view input) {
  static InputFolder folder({"model.safetensors"});
  folder.fill(input);
  const std::filesystem::path file = folder / "model.safetensors";
  show(file);
  read_first_rows(Checkpoint(file));
  // Most have none.
  read_or_refuse([&] { static_cast<void>(read_token_sequences(file, nullptr, {.length = 64, .vocab_size = 1000})); });
}

}  // namespace diffulex_edge::fuzz
