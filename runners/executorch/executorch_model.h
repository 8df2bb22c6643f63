// A language model in a .pte, one step at a time; python/diffulex_edge/_executorch.py has the same in Python.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "executorch/program.h"
#include "step_model.h"

namespace diffulex_edge::runner {

class ExecutorchModel : public StepModel {
 public:
  // After start_runtime(). Throws Error{kBadFile} for what is no program of `diffulex-edge export` from a model's
  // folder, and for one that the runtime refuses.
  explicit ExecutorchModel(const std::filesystem::path& path);

  const BundledModel& facts() const override { return facts_; }
  void step(const ForwardStep& step, std::span<float> logits) override;

 private:
  void set_input(std::size_t index, std::span<const std::int64_t> values, bool is_row);
  void copy_rows(const ForwardStep& step, std::span<float> logits);

  Program program_;
  BundledModel facts_;
  Method method_;
};

}  // namespace diffulex_edge::runner
