// What --calibration and its companions do, for the subcommands that take them.
#pragma once

#include <CLI/App.hpp>
#include <filesystem>
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
  // Throws Error{kInvalidArgument} where the data is missing that `config` needs.
  CalibrationOptions options(const Model& model, const QuantizationConfig& config) const;
  // Whether or not something needs them.
  CalibrationOptions unchecked_options() const;
};

// A folder beside an output, for what is made on the way to it; removed at the end of its scope.
class Workspace {
 public:
  // `output` is a file or folder to be written; empty: the system's folder for temporary files.
  explicit Workspace(const std::filesystem::path& output);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  Workspace(Workspace&&) = delete;
  Workspace& operator=(Workspace&&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace diffulex_edge::cli
