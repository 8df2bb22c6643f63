// A model's folder: config.json and weights, plain, of `quantize`, or of other quantizers.
#include "diffulex_edge/model.h"
#include "input_folder.h"
#include "model_reading.h"
#include "readers.h"

namespace diffulex_edge::fuzz {

void read_quantized_checkpoint(std::string_view input) {
  static InputFolder folder({"config.json", "quantize_config.json", "model.safetensors", "model.safetensors.index.json",
                             "model-1.safetensors", "model-2.safetensors"});
  folder.fill(input);
  const Model model = load_model(folder.path());
  show(folder.path());
  use_model(model);
}

}  // namespace diffulex_edge::fuzz
