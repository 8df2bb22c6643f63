// A config.json beside weights, with the files that say which tokens are special.
#include "diffulex_edge/model.h"
#include "input_folder.h"
#include "model_reading.h"
#include "readers.h"
#include "tiny_models.h"

namespace diffulex_edge::fuzz {

void read_config(std::string_view input) {
  static InputFolder folder({"config.json", "generation_config.json", "tokenizer_config.json",
                             "special_tokens_map.json", "quantize_config.json", "tokenizer.json"});
  static const bool has_weights = write_tiny_weights(folder / "model.safetensors");
  static_cast<void>(has_weights);
  folder.fill(input);
  static_cast<void>(read_model_config(folder.path()));
  // Few configurations fit these weights; quantized_checkpoint has others.
  read_or_refuse([&] { use_model(load_model(folder.path())); });
}

}  // namespace diffulex_edge::fuzz
