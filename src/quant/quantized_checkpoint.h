// Writes checkpoints in the stored quantized layout (checkpoint/stored_weight.h), weight by weight.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>

#include "core/output_file.h"
#include "core/output_folder.h"
#include "diffulex_edge/quantization.h"
#include "quant/rounding.h"

namespace diffulex_edge {

// Throws Error where no checkpoint can hold the plan's formats: kInvalidArgument for a tensor that two layers want in
// different ones, kUnsupported for INT4 rows of odd length.
void check_storable(const QuantizationPlan& plan);

// Everything's place in the file is known from the start: weights can be given in any order, and what is not given is
// converted or copied by finish(). The folder appears with finish(), and nothing stays behind without it.
class QuantizedCheckpointWriter {
 public:
  // `rewritten`: tensors that write_floats will give, such as norms. Keeps references to `model` and `plan`. Errors:
  // kIo where `target` exists and is not an empty folder.
  QuantizedCheckpointWriter(const Model& model, const QuantizationPlan& plan, const std::filesystem::path& target,
                            const std::set<std::string>& rewritten = {});
  ~QuantizedCheckpointWriter();
  QuantizedCheckpointWriter(const QuantizedCheckpointWriter&) = delete;
  QuantizedCheckpointWriter& operator=(const QuantizedCheckpointWriter&) = delete;
  QuantizedCheckpointWriter(QuantizedCheckpointWriter&&) = delete;
  QuantizedCheckpointWriter& operator=(QuantizedCheckpointWriter&&) = delete;

  // A weight that the plan quantizes, in the plan's format.
  void write_rounded(const std::string& tensor, const RoundedWeight& weight);
  // A tensor of `rewritten`, float32.
  void write_floats(const std::string& tensor, std::span<const float> values);

  // Writes the rest, config.json with the plan noted, and the tokenizer; of a module, which has no folder, only the
  // weights. Returns the bytes of model.safetensors.
  // Errors: kInternal for a tensor of `rewritten` that was not given, otherwise as stream_weights.
  std::int64_t finish(const RunControl& control);

 private:
  const Model& model_;
  const QuantizationPlan& plan_;
  std::unique_ptr<OutputFolder> folder_;
  std::map<std::string, const LayerPlan*> converted_;  // by tensor: still to be written
  std::map<std::string, const LayerPlan*> kept_;       // in the format that they have
  std::set<std::string> rewritten_;
  std::map<std::string, std::int64_t> offsets_;
  std::int64_t file_bytes_ = 0;
  std::unique_ptr<OutputFile> file_;
};

}  // namespace diffulex_edge
