// A model as a GGUF file, which llama.cpp's programs load.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge {

// Whether the name is that of a GGUF file, by its ending.
bool is_gguf_name(const std::filesystem::path& path);

// Formats in the file, of a layer by its plan:
//   FP32  as the checkpoint has it: F32, F16, BF16, or a GGUF file's own blocks byte for byte; norms and biases F32
//   FP16  F16
//   INT8  Q8_0. Of floats each block of 32 has a scale of its own; integers that are stored already, or that were
//         rounded with calibration, keep the one scale of their row, rounded to FP16
//   INT4  Q4_0 with the plan's integers; scales of larger groups and of rows are repeated. A scale becomes FP16, which
//         holds every BF16 from 2^-17 to 65504 exactly
// Blocks of a GGUF file that are in the plan's format already stay as they are.
class GgufOutput {
 public:
  // Reads `original`'s configuration and tokenizer files; keeps a reference. Throws Error{kUnsupported} where llama.cpp
  // has no architecture or no tokenizer that is the model's.
  explicit GgufOutput(const Model& original);
  ~GgufOutput();
  GgufOutput(const GgufOutput&) = delete;
  GgufOutput& operator=(const GgufOutput&) = delete;
  GgufOutput(GgufOutput&&) = delete;
  GgufOutput& operator=(GgufOutput&&) = delete;

  // The plan of `original`, or of its rounded copy, in GGUF's formats, with warnings of what the file does not hold.
  // Throws Error{kUnsupported} for a format that has no block type, for rows that blocks of 32 do not divide, and for
  // mode STATIC.
  QuantizationResult in_gguf_formats(const Model& model, QuantizationResult result) const;

  // Writes the file, which appears when complete; an existing one is replaced. `plan` is of in_gguf_formats for
  // `model`. Returns its bytes. Errors: kIo; kUnsupported for a scale beyond FP16; otherwise as
  // write_quantized_checkpoint.
  std::int64_t write(const Model& model, const QuantizationPlan& plan, const std::filesystem::path& target,
                     const RunControl& control = {}) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace diffulex_edge
