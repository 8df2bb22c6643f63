#include "runtime/value_check.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "quant/kernels/kernels.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kPiece = std::size_t{1} << 16U;
constexpr const char* kAdvice =
    "the weights are finite, so they are too large for this arithmetic: the checkpoint is broken, or needs another "
    "format";

bool is_finite(std::span<const float> values) {
  return std::isfinite(kernels::f32_abs_max(values.data(), values.size()));
}

[[noreturn]] void fail(const Model& model, const std::string& what) {
  // A module has no file.
  throw Error(ErrorCode::kBadFile, model.path.empty() ? model.config.architecture : model.path.string(), what, kAdvice);
}

std::string operator_name(const Node& node) {
  return node.name.empty() ? "an operator " + std::string(to_string(node.op))
                           : "'" + node.name + "' (" + std::string(to_string(node.op)) + ")";
}

}  // namespace

void check_step(const Model& model, const Node& node, const ExecutionSession& session, const RunControl& control) {
  const Activations& made = session.value(session.last());
  const std::span<const float> values = made.data;
  std::atomic<bool> finite = true;
  parallel_for((values.size() + kPiece - 1) / kPiece, control, [&](std::size_t piece, std::size_t) {
    const std::size_t begin = piece * kPiece;
    if (!is_finite(values.subspan(begin, std::min(kPiece, values.size() - begin)))) {
      finite = false;
    }
  });
  if (finite) {
    return;
  }
  const auto wrong = std::ranges::find_if(values, [](float value) { return !std::isfinite(value); });
  std::string what = operator_name(node) + " gives " + std::to_string(*wrong);
  if (made.rows == session.tokens()) {
    const std::int64_t row = (wrong - values.begin()) / made.width;
    const auto after = std::ranges::upper_bound(session.offsets(), row) - 1;
    what += " at token " + std::to_string(row - *after) + " of sequence " +
            std::to_string(after - session.offsets().begin());
  }
  fail(model, what + ": the first value that is not finite");
}

void run_checked(const Model& model, ExecutionSession& session, const RunControl& control) {
  while (const Node* node = session.next()) {
    session.step();
    check_step(model, *node, session, control);
  }
}

void check_logits(const Model& model, std::span<const float> logits) {
  if (!is_finite(logits)) {
    const auto wrong = std::ranges::find_if(logits, [](float value) { return !std::isfinite(value); });
    fail(model, operator_name(model.graph.node(model.graph.output())) + " gives the logit " + std::to_string(*wrong) +
                    ": the first value that is not finite");
  }
}

}  // namespace diffulex_edge
