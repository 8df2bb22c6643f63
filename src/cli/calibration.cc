#include "cli/calibration.h"

#include <fmt/core.h>

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

CalibrationOptions CalibrationArguments::options() const {
  return {.data = data.value_or(""),
          .length = length,
          .max_sequences = sequences,
          .seed = seed,
          .observer = parse_observer(observer),
          .percentile = percentile,
          .mask_weight = mask_weight};
}

}  // namespace diffulex_edge::cli
