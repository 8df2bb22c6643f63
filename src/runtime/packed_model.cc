#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "diffulex_edge/error.h"
#include "diffulex_edge/runtime.h"
#include "runtime/execution_session.h"
#include "runtime/packed_model.h"

namespace diffulex_edge {
namespace {

using ArithmeticName = std::pair<QuantizedArithmetic, std::string_view>;
constexpr std::array kArithmeticNames = {
    ArithmeticName{QuantizedArithmetic::SIMULATED, "simulated"},
    ArithmeticName{QuantizedArithmetic::FAST, "fast"},
};

}  // namespace

std::string_view to_string(QuantizedArithmetic arithmetic) {
  return std::ranges::find(kArithmeticNames, arithmetic, &ArithmeticName::first)->second;
}

QuantizedArithmetic parse_quantized_arithmetic(std::string_view text) {
  const auto* found = std::ranges::find(kArithmeticNames, text, &ArithmeticName::second);
  if (found == kArithmeticNames.end()) {
    throw Error(ErrorCode::kInvalidArgument, "arithmetic", "'" + std::string(text) + "' is not one of simulated, fast");
  }
  return found->first;
}

PackedModel::PackedModel(const Model& model, const QuantizationPlan* plan, const RunControl& control,
                         const std::filesystem::path& packs)
    : state_(std::make_unique<State>(model, plan, control, packs)) {}

PackedModel::~PackedModel() = default;
PackedModel::PackedModel(PackedModel&&) noexcept = default;
PackedModel& PackedModel::operator=(PackedModel&&) noexcept = default;

std::vector<std::vector<float>> PackedModel::forward(const TokenSequences& sequences, const RunControl& control) const {
  auto logits = run_model(state_->graph_plan, state_->model, sequences, state_->layers, state_->integers, control);
  state_->layers.check();
  return logits;
}

std::int64_t PackedModel::weight_bytes() const { return state_->layers.bytes(); }

}  // namespace diffulex_edge
