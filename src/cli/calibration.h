// What --calibration and its companions do, for the subcommands that take them.
#pragma once

#include <CLI/App.hpp>
#include <optional>
#include <string>

#include "cli/options.h"
#include "diffulex_edge/calibration.h"

namespace diffulex_edge::cli {

struct CalibrationArguments {
  std::optional<std::string> data;
  std::int64_t length = CalibrationOptions().length;
  std::int64_t sequences = CalibrationOptions().max_sequences;
  std::uint64_t seed = 0;
  std::string observer = "mse";
  double percentile = CalibrationOptions().percentile;
  double mask_weight = 1.0;

  void add_to(CLI::App& command);
  CalibrationOptions options() const;
};

}  // namespace diffulex_edge::cli
