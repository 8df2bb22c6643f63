#include "cli/runtime_arguments.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>

#include "cli/console.h"
#include "cli/progress_bar.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/error.h"
#include "model_files/model_files.h"
#include "quant/layer_formats.h"

namespace diffulex_edge::cli {
namespace {

constexpr std::int64_t kUsualCapacity = 2048;

}  // namespace

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

void TextModelArguments::add_block_length_to(CLI::App& command) {
  command.add_option("--block-length", block_length,
                     "Tokens that are decoded before later ones (default: LLaDA 32, Dream all, others the model's)");
}

TextModel TextModelArguments::open(const OutputOptions& output, std::stop_token stop) const {
  const auto documents = hold_documents(model.path);
  ProgressBar bar(output.quiet);
  TextModel text(
      model.path, options(), [&](const Model& loaded) { return runtime.request(loaded, {}); },
      output.control(bar, std::move(stop)), packs);
  bar.end();
  for (const std::string& warning : text.warnings()) {
    print_message(fmt::format("diffulex-edge: warning: {}\n", warning));
  }
  return text;
}

std::int64_t cache_capacity(std::optional<std::int64_t> option, const DiffusionEngine& engine) {
  const std::int64_t most = engine.max_tokens();
  const std::int64_t wanted = option.value_or(std::min(most, kUsualCapacity));
  const std::int64_t block = std::max<std::int64_t>(engine.config().block_length, 1);
  if (wanted > most || wanted < block) {
    throw Error(ErrorCode::kInvalidArgument, "--capacity",
                fmt::format("{} is not in {}..{}, the tokens that the model takes", wanted, block, most));
  }
  return wanted / block * block;
}

}  // namespace diffulex_edge::cli
