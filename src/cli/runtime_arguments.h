// How a model is quantized that runs on this machine: as a backend would export it.
#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>

#include "cli/options.h"
#include "diffulex_edge/calibration.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/quantization_session.h"
#include "diffusion/text_model.h"

namespace diffulex_edge::cli {

struct RuntimeArguments {
  QuantizationArguments quantization;
  BackendArguments backend;
  std::optional<std::string> activation_dtype;
  std::int64_t palette_group = 0;

  void add_to(CLI::App& command);
  // What the backend makes of the options, as for `export`, and computes with. Throws Error.
  QuantizationRequest request(const Model& model, const CalibrationOptions& calibration) const;
};

// A model that writes text.
struct TextModelArguments {
  ModelArguments model;
  RuntimeArguments runtime;
  std::optional<std::int64_t> block_length;  // of a block-causal model's blocks
  std::string packs;                         // a folder for packed weights, or empty

  // All but --block-length.
  void add_to(CLI::App& command);
  // For commands where it also says how to decode.
  void add_block_length_to(CLI::App& command);
  ModelOptions options() const;
  // Shows the progress, and then the model's warnings.
  TextModel open(const OutputOptions& output, std::stop_token stop) const;
};

// Tokens of a request that a cache has room for, in whole blocks: the option --capacity, or what is usual. Throws Error
// where the model takes fewer.
std::int64_t cache_capacity(std::optional<std::int64_t> option, const DiffusionEngine& engine);

}  // namespace diffulex_edge::cli
