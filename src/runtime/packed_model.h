// What a packed model holds, for those that run it.
#pragma once

#include <filesystem>
#include <optional>

#include "diffulex_edge/model.h"
#include "diffulex_edge/runtime.h"
#include "runtime/execution_plan.h"
#include "runtime/packed_layers.h"
#include "runtime/static_values.h"

namespace diffulex_edge {

struct PackedModel::State {
  State(const Model& source, const QuantizationPlan* plan, const RunControl& control,
        const std::filesystem::path& packs)
      : model(source),
        layers(source, plan, control, packs),
        integers(make_static_values(source, plan)),
        graph_plan(model.graph) {
    model.checkpoint.reset();
  }

  Model model;  // without its checkpoint
  PackedLayers layers;
  std::optional<StaticValues> integers;
  ExecutionPlan graph_plan;
};

}  // namespace diffulex_edge
