// An artefact in its runtime: what a runner needs of it.
#pragma once

#include <span>

#include "bundle/bundle.h"
#include "diffulex_edge/generation.h"

namespace diffulex_edge::runner {

class StepModel {
 public:
  StepModel() = default;
  virtual ~StepModel() = default;
  StepModel(const StepModel&) = delete;
  StepModel& operator=(const StepModel&) = delete;
  StepModel(StepModel&&) = delete;
  StepModel& operator=(StepModel&&) = delete;

  // What the artefact itself says.
  virtual const BundledModel& facts() const = 0;
  // A StepFunction. Throws Error{kBadFile} for a step that the runtime refuses.
  virtual void step(const ForwardStep& step, std::span<float> logits) = 0;
};

}  // namespace diffulex_edge::runner
