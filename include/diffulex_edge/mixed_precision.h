// Mixed precision: the best format of each layer for a size or for a loss, and plans as files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "diffulex_edge/model.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge {

// What a format does to a model in which everything else stays in float32.
struct FormatEffect {
  LayerFormat format;
  // Of the layer's output: sum (quantized - original)^2 / sum original^2. Absent for embedding, head and experts, whose
  // effect on the predictions is always measured.
  std::optional<double> output_error;
  double kl_divergence = 0.0;  // nats a token, KL(original || quantized) of the model's predictions
  bool measured = false;       // false: kl_divergence is a measured one, scaled by the output errors
};

// Layers that take their format together: one, those that share a tensor (a tied embedding and head), or all routed
// experts of a block.
struct LayerSensitivity {
  std::vector<std::string> layers;  // canonical names
  std::int64_t parameters = 0;
  std::vector<FormatEffect> formats;  // that the layers can take
};

// Bytes of an artefact: of each layer's values and scales, and of all.
struct ArtefactSizes {
  std::int64_t total = 0;
  std::map<std::string, std::int64_t, std::less<>> layers;  // by canonical name; what is shared counts once
};
using SizePredictor = std::function<ArtefactSizes(const QuantizationConfig&)>;

// One choice of a format for every layer.
struct MixedPrecisionPlan {
  QuantizationConfig config;                     // layer_formats holds the choice
  std::int64_t file_bytes = 0;                   // of the artefact
  double kl_divergence = 0.0;                    // sum of the layers' effects
  std::optional<double> measured_kl_divergence;  // of all layers together, where somebody measured it
  // No choice of this size or less has a smaller sum (with a largest loss: none within it is smaller than
  // `file_bytes_bound`). Equal to the figures of this choice where it is proven to be the best.
  double kl_divergence_bound = 0.0;
  std::int64_t file_bytes_bound = 0;

  // Throws Error{kInternal} for layers of another plan.
  const LayerFormat& format_of(const LayerSensitivity& unit) const;
};

// Picks a format for every layer. Knows the bytes of each layer in each format from `predict_sizes`, which is asked
// once for each format, and for each choice that is tried.
class MixedPrecisionPlanner {
 public:
  // Keeps a copy of everything. Errors: those of predict_sizes.
  MixedPrecisionPlanner(QuantizationConfig config, std::vector<LayerSensitivity> sensitivity,
                        SizePredictor predict_sizes);

  // The least loss in at most `bytes`. Errors: kInvalidArgument where the smallest choice is larger, naming its size.
  MixedPrecisionPlan for_size(std::int64_t bytes) const;
  // The smallest artefact whose effects sum up to at most `kl_divergence`. Errors: kInvalidArgument where nothing does.
  MixedPrecisionPlan for_loss(double kl_divergence) const;
  // Every layer in one format, or in the next better one that it can take.
  MixedPrecisionPlan uniform(const LayerFormat& format) const;

  const std::vector<LayerSensitivity>& sensitivity() const;

 private:
  struct State;
  std::shared_ptr<const State> state_;  // copies share it
};

// A plan as a file: JSON that a person can edit. `layers` gives each layer's format; `default`, if there, that of all
// others; what else the file says is for readers. `model` is its path as given.
std::string plan_json(const MixedPrecisionPlan& plan, const std::vector<LayerSensitivity>& sensitivity,
                      const std::string& model);

// Reads a plan's mode, method and formats for `model`. Errors: kBadFile naming the file and what is wrong in it: a
// layer that the model does not have, one that has no format, a format that does not exist.
QuantizationConfig read_plan(const std::filesystem::path& file, const Model& model);

// The measurements that a plan file holds, to plan again without measuring again. Errors: kBadFile.
std::vector<LayerSensitivity> read_sensitivity(const std::filesystem::path& file, const Model& model);

}  // namespace diffulex_edge
