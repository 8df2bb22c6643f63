// A mixed-precision plan for a small model: made into layers, and planned again from its measurements.
#include "diffulex_edge/mixed_precision.h"
#include "diffulex_edge/quantization.h"
#include "input_folder.h"
#include "readers.h"
#include "tiny_models.h"

namespace diffulex_edge::fuzz {
namespace {

ArtefactSizes sizes_of(const QuantizationConfig& config) {
  const QuantizationPlan plan = quantize_model(tiny_model(), config).plan;
  ArtefactSizes sizes{.total = planned_bytes(plan), .layers = {}};
  for (const LayerPlan& layer : plan.layers) {
    sizes.layers[layer.layer] = layer.value_bytes() + layer.scale_bytes();
  }
  return sizes;
}

}  // namespace

void read_plan(std::string_view input) {
  static InputFolder folder({"plan.json"});
  folder.fill(input);
  const std::filesystem::path file = folder / "plan.json";
  read_or_refuse([&] { static_cast<void>(sizes_of(diffulex_edge::read_plan(file, tiny_model()))); });
  read_or_refuse([&] {
    const MixedPrecisionPlanner planner({}, read_sensitivity(file, tiny_model()), sizes_of);
    static_cast<void>(plan_json(planner.for_size(2000), planner.sensitivity(), "model"));
    static_cast<void>(planner.for_loss(0.01));
  });
}

}  // namespace diffulex_edge::fuzz
