#include "cli/calibration.h"

#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "diffulex_edge/error.h"

namespace diffulex_edge::cli {

void CalibrationArguments::add_to(CLI::App& command) {
  command.add_option(
      "--calibration", data,
      "Text (.txt, .jsonl) or token ids (.npy, .safetensors) for --mode static, for --method gptq, awq, auto and mse, "
      "and for plan; self: tokens that the model makes itself");
  command.add_option("--calibration-length", length,
                     fmt::format("Tokens of a calibration sequence, at most (default {})", length));
  command.add_option("--calibration-sequences", sequences,
                     fmt::format("Calibration sequences, at most (default {})", sequences));
  command.add_option("--seed", seed, "Of the mask ratios and places (default 0)");
  command.add_option("--observer", observer, "Ranges of static activations: mse (default), percentile or min_max");
  command.add_option("--percentile", percentile, "What --observer percentile covers (default 99.99)");
  command.add_option("--mask-weight", mask_weight,
                     "How much more the error where a masked token is predicted counts in rounding (default 1)");
}

CalibrationOptions CalibrationArguments::options(const Model& model, const QuantizationConfig& config) const {
  if (!data && needs_calibration(model, config)) {
    const bool is_static = config.mode == QuantizationMode::STATIC;
    throw Error(ErrorCode::kInvalidArgument,
                is_static ? "mode static" : "method " + std::string(to_string(config.method)), "needs calibration data",
                "give text or token ids with --calibration FILE, or --calibration self");
  }
  if (data && !can_use_calibration(model, config)) {
    throw Error(ErrorCode::kInvalidArgument, "--calibration", "nothing here needs it",
                "leave it out, or ask for --mode static with INT8, or for --method gptq, awq, auto or mse");
  }
  return unchecked_options();
}

CalibrationOptions CalibrationArguments::unchecked_options() const {
  return {.data = data.value_or(""),
          .length = length,
          .max_sequences = sequences,
          .seed = seed,
          .observer = parse_observer(observer),
          .percentile = percentile,
          .mask_weight = mask_weight};
}

Workspace::Workspace(const std::filesystem::path& output) {
  const std::filesystem::path clean = output.has_filename() ? output : output.parent_path();
  std::filesystem::path parent = ".";
  if (output.empty()) {
    parent = std::filesystem::temp_directory_path();
  } else if (clean.has_parent_path()) {
    parent = clean.parent_path();
  }
  path_ = parent / ("." + clean.filename().string() + ".rounded-" + std::to_string(::getpid()));
}

Workspace::~Workspace() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace diffulex_edge::cli
