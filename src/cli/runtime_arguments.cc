#include "cli/runtime_arguments.h"

#include <CLI/CLI.hpp>
#include <utility>

#include "diffulex_edge/backend.h"
#include "diffulex_edge/error.h"
#include "quant/layer_formats.h"

namespace diffulex_edge::cli {

void RuntimeArguments::add_to(CLI::App& command) {
  backend.add_name_to(command, "Whose activations: ");
  command.add_option("--activation-dtype", activation_dtype,
                     "int8: the same as --mode static; qnn: int16 (default of --mode static) or int8");
  command
      .add_option("--palette-group", palette_group, "Palettes: rows of a weight that share a table; 0 (default): all")
      ->check(CLI::NonNegativeNumber);
  quantization.add_to(command);
}

QuantizationRequest RuntimeArguments::request(const Model& model, const CalibrationOptions& calibration) const {
  BackendConfig config{.quant_config = quantization.config(model)};
  config.quant_config.palette_group = palette_group;
  if (palette_group != 0 && !has_palettes(config.quant_config)) {
    throw Error(ErrorCode::kInvalidArgument, "palette group", "is given without palettes", "add --dtype palette4");
  }
  if (activation_dtype) {
    config.activation_dtype = parse_activation_dtype(*activation_dtype);
  }
  if (config.activation_dtype == ActivationDtype::FP16) {
    throw Error(ErrorCode::kUnsupported, "activation dtype fp16", "is not simulated: floating point is float32 here",
                "leave it out");
  }
  const auto chosen = BackendRegistry::instance().create(backend.name(), std::move(config));
  chosen->check_config();
  return {.config = chosen->quantization(), .target = chosen->arithmetic(), .calibration = calibration, .known = {}};
}

void TextModelArguments::add_to(CLI::App& command) {
  model.add_without_blocks_to(command);
  command.add_option(
      "--pack-cache", packs,
      "A folder that keeps the packed weights: the next start maps them, in no time, and processes share "
      "their memory");
  runtime.add_to(command);
}

ModelOptions TextModelArguments::options() const {
  ModelOptions options = model.options();
  options.block_length = block_length;
  return options;
}

TextModel TextModelArguments::open(const RunControl& control) const {
  return {model.path, options(), [&](const Model& loaded) { return runtime.request(loaded, {}); }, control, packs};
}

}  // namespace diffulex_edge::cli
