// A small model of any family with ranges for all values of its graph.
#pragma once

#include <string>

#include "diffulex_edge/calibration.h"
#include "runtime/calibrate.h"
#include "support/reference_decoder.h"
#include "support/tiny_model.h"

namespace diffulex_edge::testing {

inline const TokenSequences kCalibrationSequences = {{5, 1, 30, 7, 7, 2, 19, 36, 0, 11, 4, 12},
                                                     {3, 3, 8, 21, 9, 17, 28}};

class StaticModel {
 public:
  explicit StaticModel(const std::string& family) {
    const auto decoder = reference_decoder(family);
    write_model(folder_ / "model", decoder.config, decoder.tensors());
    model_ = load_model(folder_ / "model",
                        {.seq_len = 16, .block_length = {}, .mask_token_id = {}, .ignored_config_keys = {}});
    block_ = decoder.block;
  }

  // With the ranges of kCalibrationSequences, by default from the observer that takes no time.
  CalibrationFindings calibrated(const TargetArithmetic& target, const QuantizationConfig& config = int8_static(),
                                 const CalibrationOptions& options = {.observer = Observer::MIN_MAX}) const {
    CalibrationData data{.inputs = kCalibrationSequences, .masked = {}, .counts = {}};
    for (const auto& sequence : kCalibrationSequences) {
      data.masked.emplace_back(sequence.size(), false);
      data.counts.emplace_back(sequence.size(), true);
    }
    return calibrate_activations(model_, config, target, data, options, {.threads = 2}).findings;
  }
  // Where every value is an integer of `bits` bits.
  static TargetArithmetic everywhere(int bits) {
    return {.has_static_groups = true, .static_everywhere = true, .static_bits = bits};
  }
  static QuantizationConfig int8_static() {
    return {.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::STATIC};
  }

 protected:
  TemporaryFolder folder_;
  Model model_;
  std::int64_t block_ = 0;  // 0: every token sees every other
};

}  // namespace diffulex_edge::testing
