#include "executorch/executorch_model.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "diffulex_edge/error.h"
#include "executorch/model_facts.h"
#include "executorch/runtime_log.h"

namespace diffulex_edge::runner {

namespace et = executorch::runtime;
namespace etensor = executorch::runtime::etensor;

ExecutorchModel::ExecutorchModel(const std::filesystem::path& path)
    : program_(path), facts_(read_facts(program_)), method_(program_, "forward") {
  const std::size_t inputs = facts_.cache == "none" ? 1 : 2 + (facts_.block_length == 0 ? 1 : 0);
  const std::size_t rows = facts_.cache != "none" && facts_.logits == "rows" ? 1 : 0;
  if (method_.get().inputs_size() != inputs + rows || method_.get().outputs_size() == 0) {
    throw Error(ErrorCode::kBadFile, path.string(),
                "takes " + std::to_string(method_.get().inputs_size()) + " inputs, where its methods promise " +
                    std::to_string(inputs + rows),
                "export the model again");
  }
}

// `is_row`: [1, values], else [values]. The runtime copies them.
void ExecutorchModel::set_input(std::size_t index, std::span<const std::int64_t> values, bool is_row) {
  const auto count = static_cast<etensor::TensorImpl::SizesType>(values.size());
  std::array<etensor::TensorImpl::SizesType, 2> sizes = {is_row ? 1 : count, count};
  std::array<etensor::TensorImpl::DimOrderType, 2> order = {0, 1};
  std::array<etensor::TensorImpl::StridesType, 2> strides = {is_row ? count : 1, 1};
  etensor::TensorImpl tensor(etensor::ScalarType::Long, is_row ? 2 : 1, sizes.data(),
                             const_cast<std::int64_t*>(values.data()), order.data(), strides.data());
  if (const et::Error error = method_.get().set_input(etensor::Tensor(&tensor), index); error != et::Error::Ok) {
    program_.refuse("an input of " + std::to_string(values.size()) + " tokens", error);
  }
}

void ExecutorchModel::step(const ForwardStep& step, std::span<float> logits) {
  const auto last = static_cast<std::int64_t>(step.tokens.size()) - 1;
  if (facts_.logits == "last" && std::ranges::any_of(step.rows, [&](std::int64_t row) { return row != last; })) {
    throw Error(ErrorCode::kBadFile, program_.name(), "has the logits of a step's last token only",
                "export it without --logits last");
  }
  forget_runtime_messages();
  std::size_t index = 0;
  set_input(index++, step.tokens, true);
  if (facts_.cache != "none") {
    set_input(index++, std::span(&step.start, 1), false);
    if (facts_.block_length == 0) {
      set_input(index++, std::span(&step.sees, 1), false);
    }
    if (facts_.logits == "rows") {
      set_input(index++, step.rows.empty() ? std::span(&last, 1) : step.rows, true);
    }
  }
  if (const et::Error error = method_.get().execute(); error != et::Error::Ok) {
    program_.refuse(
        "a step of " + std::to_string(step.tokens.size()) + " tokens from position " + std::to_string(step.start),
        error);
  }
  copy_rows(step, logits);
}

void ExecutorchModel::copy_rows(const ForwardStep& step, std::span<float> logits) {
  const et::EValue& output = method_.get().get_output(0);
  const auto vocab = static_cast<std::size_t>(facts_.vocab_size);
  const bool is_all = facts_.logits == "all";
  std::size_t rows = 1;
  if (is_all) {
    rows = step.tokens.size();
  } else if (facts_.logits == "rows" && !step.rows.empty()) {
    rows = step.rows.size();
  }
  if (!output.isTensor() || output.toTensor().scalar_type() != etensor::ScalarType::Float ||
      static_cast<std::size_t>(output.toTensor().numel()) != rows * vocab) {
    throw Error(ErrorCode::kBadFile, program_.name(), "gives no logits of its vocabulary", "export the model again");
  }
  const std::span<const float> found(output.toTensor().const_data_ptr<float>(), rows * vocab);
  for (std::size_t i = 0; i < step.rows.size(); ++i) {
    const std::size_t row = is_all ? static_cast<std::size_t>(step.rows[i]) : i;
    std::ranges::copy(found.subspan(std::min(row, rows - 1) * vocab, vocab), logits.subspan(i * vocab, vocab).begin());
  }
}

}  // namespace diffulex_edge::runner
