#include "runtime/execution_session.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "quant/affine_scale.h"
#include "runtime/linear_layers.h"
#include "runtime/operators/operators.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kLogitElements = 1LL << 25;  // float32 logits in memory at once

}  // namespace

std::int64_t widest_activation(const ModelConfig& config) {
  const std::int64_t shared = config.experts.shared_intermediate_size;
  return std::max({config.intermediate_size, (config.num_heads + 2 * config.num_kv_heads) * config.head_dim,
                   config.hidden_size, config.experts.intermediate_size, shared, config.experts.count});
}

ExecutionSession::ExecutionSession(const ExecutionPlan& plan, const Model& model, const ModelLayers& layers,
                                   const RunControl& control, const StaticValues* integers)
    : plan_(plan),
      model_(model),
      layers_(layers),
      control_(control),
      integers_(integers),
      values_(plan.graph().nodes().size()),
      buffers_(plan.buffers()) {
  set_sources();
}

// Constants, and weights that are operands as a whole.
void ExecutionSession::set_sources() {
  const auto& nodes = plan_.graph().nodes();
  const auto set = [&](ValueId id, std::vector<float> data) {
    made(id) = {.rows = 1, .width = static_cast<std::int64_t>(data.size()), .data = std::move(data)};
  };
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].op == Op::kConstant) {
      set(static_cast<ValueId>(i), std::get<ConstantAttributes>(nodes[i].attributes).values);
    }
  }
  for (const ValueId weight : plan_.loaded_weights()) {
    set(weight, layers_.load_vector(plan_.graph().tensor(weight)));
  }
}

void ExecutionSession::begin(Batch batch) {
  check_cache(batch);
  for (const ExecutionPlan::Step& step : plan_.steps()) {  // of a batch that was left before its end
    std::vector<float>& data = made(step.value).data;
    if (data.capacity() > 0 && keeps_buffers_) {
      buffers_[static_cast<std::size_t>(plan_.buffer(step.value))] = std::move(data);
    }
    made(step.value) = {};
  }
  batch_ = std::move(batch);
  std::size_t input = 0;
  for (std::size_t i = 0; i < values_.size(); ++i) {
    if (plan_.graph().nodes()[i].op == Op::kInput) {
      plan_.set_size(static_cast<ValueId>(i), batch_, values_[i]);
      values_[i].data = std::move(batch_.inputs[input++]);
    }
  }
  for (std::size_t i = 0; cache_ && i < batch_.sequences(); ++i) {
    cache_->set_length(batch_.cache_index(i), batch_.starts[i]);  // until finish_cache()
  }
  scratch_.resize(thread_count(control_));
  position_ = 0;
  last_ = -1;
}

void ExecutionSession::check_cache(const Batch& batch) const {
  if (!cache_) {
    if (std::ranges::any_of(batch.starts, [](std::int64_t start) { return start != 0; })) {
      throw Error(ErrorCode::kInvalidArgument, "batch", "goes on behind position 0, but the session keeps no keys");
    }
    return;
  }
  const KeyValueCacheOptions& room = cache_->options();
  for (std::size_t i = 0; i < batch.sequences(); ++i) {
    const std::string where = "sequence " + std::to_string(i);
    const std::size_t kept = batch.cache_index(i);
    const std::int64_t end = batch.starts[i] + batch.length(i);
    if (kept >= room.sequences || std::max(end, batch.end(i)) > room.capacity) {
      throw Error(ErrorCode::kInvalidArgument, where,
                  "the cache has room for " + std::to_string(room.sequences) + " sequences of " +
                      std::to_string(room.capacity) + " tokens");
    }
    const std::int64_t known = cache_->length(kept);
    if (batch.starts[i] > known || batch.end(i) > std::max(known, end)) {
      throw Error(ErrorCode::kInvalidArgument, where,
                  "goes on at position " + std::to_string(batch.starts[i]) + " and sees " +
                      std::to_string(batch.end(i)) + ", but only " + std::to_string(known) + " tokens were run before");
    }
  }
}

// What a batch wrote counts once all layers have it.
void ExecutionSession::finish_cache() {
  for (std::size_t i = 0; cache_ && i < batch_.sequences(); ++i) {
    cache_->set_length(batch_.cache_index(i), std::max(batch_.end(i), batch_.starts[i] + batch_.length(i)));
  }
}

const Node* ExecutionSession::next() const {
  return position_ == plan_.steps().size() ? nullptr : &plan_.graph().node(plan_.steps()[position_].value);
}

void ExecutionSession::step() {
  const ExecutionPlan::Step& step = plan_.steps()[position_];
  if (control_.stop.stop_requested()) {
    throw Error(ErrorCode::kCancelled, {}, "stopped");
  }
  Activations result = start_result(step);
  const bool is_moved = plan_.graph().node(step.value).op == Op::kReshape && step.taken_input >= 0;
  const bool is_empty = is_routed(step.value) && result.rows == 0;
  if (!is_moved && !is_empty) {
    const OperatorContext context{.plan = plan_,
                                  .batch = batch_,
                                  .values = values_,
                                  .layers = layers_,
                                  .control = control_,
                                  .integers = integers_,
                                  .cache = cache_ ? &*cache_ : nullptr,
                                  .scores = scores_,
                                  .scratch = scratch_,
                                  .seq_len = model_.seq_len,
                                  .has_taken_input = step.taken_input >= 0};
    step.kernel.run(context, step.value, result);
  }
  round(step.value, result);
  drop_last_uses(step);
  last_ = step.value;
  made(step.value) = std::move(result);
  if (++position_ == plan_.steps().size()) {
    finish_cache();
  }
}

// The step's value with its size, in the buffer that the plan has for it.
Activations ExecutionSession::start_result(const ExecutionPlan::Step& step) {
  const Node& node = plan_.graph().node(step.value);
  Activations result;
  plan_.set_size(step.value, batch_, result);
  if (node.op == Op::kDispatch) {
    const auto& expert = std::get<ExpertAttributes>(node.attributes);
    result.rows = static_cast<std::int64_t>(chosen_tokens(value(node.inputs[1]), expert.expert).size());
  } else if (is_routed(step.value)) {
    result.rows = value(node.inputs[0]).rows;
  }
  if (step.taken_input >= 0) {
    result.data = std::move(made(node.inputs[static_cast<std::size_t>(step.taken_input)]).data);
  } else {
    result.data = std::move(buffers_[static_cast<std::size_t>(plan_.buffer(step.value))]);
    result.data.resize(static_cast<std::size_t>(result.rows * result.width));
  }
  return result;
}

void ExecutionSession::drop_last_uses(const ExecutionPlan::Step& step) {
  for (const ValueId input : step.last_uses) {
    if (keeps_buffers_ && plan_.buffer(input) != plan_.buffer(step.value)) {
      buffers_[static_cast<std::size_t>(plan_.buffer(input))] = std::move(made(input).data);
    }
    made(input) = {};
  }
}

std::vector<std::int64_t> ExecutionSession::routed_tokens(ValueId id) const {
  const Node& dispatch = plan_.graph().node(plan_.route(id));
  return chosen_tokens(value(dispatch.inputs[1]), std::get<ExpertAttributes>(dispatch.attributes).expert);
}

InputRows ExecutionSession::input_of(const Node& layer) const {
  return {plan_.graph().shape(layer.inputs[0]).back().value, value(layer.inputs[0]).data};
}

void ExecutionSession::append_copies(std::size_t sequences) {
  if (cache_) {
    throw Error(ErrorCode::kInternal, "copies", "a session that keeps keys has none");
  }
  for (std::size_t i = 0; i < values_.size(); ++i) {
    const auto id = static_cast<ValueId>(i);
    if (values_[i].data.empty() || plan_.is_shared(id)) {
      continue;
    }
    std::vector<float>& data = values_[i].data;
    const std::int64_t count = first_rows(id, sequences) * values_[i].width;
    const auto old_size = static_cast<std::ptrdiff_t>(data.size());
    data.resize(data.size() + static_cast<std::size_t>(count));
    std::copy_n(data.begin(), count, data.begin() + old_size);
  }
  for (std::size_t i = 0; i < sequences; ++i) {
    batch_.offsets.push_back(batch_.offsets.back() + batch_.length(i));
    batch_.starts.push_back(batch_.starts[i]);
  }
  for (std::size_t i = 0; i < values_.size(); ++i) {
    Activations& value = values_[i];
    if (!value.data.empty()) {
      plan_.set_size(static_cast<ValueId>(i), batch_, value);
      value.rows = static_cast<std::int64_t>(value.data.size()) / std::max<std::int64_t>(value.width, 1);
    }
  }
}

std::int64_t ExecutionSession::first_rows(ValueId id, std::size_t sequences) const {
  if (!is_routed(id)) {
    return plan_.begins(id, batch_)[sequences] / std::max<std::int64_t>(value(id).width, 1);
  }
  const std::vector<std::int64_t> tokens = routed_tokens(id);
  return std::ranges::lower_bound(tokens, batch_.offsets[sequences]) - tokens.begin();
}

std::span<float> ExecutionSession::mutable_rows(ValueId id, std::int64_t begin, std::int64_t count) {
  Activations& rows = made(id);
  return std::span(rows.data).subspan(static_cast<std::size_t>(begin * rows.width),
                                      static_cast<std::size_t>(count * rows.width));
}

void ExecutionSession::scale_columns(ValueId id, std::span<const float> factors) {
  std::vector<float>& data = made(id).data;
  for_each_row(static_cast<std::int64_t>(data.size() / factors.size()), static_cast<std::int64_t>(factors.size()),
               control_, [&](std::int64_t row) {
                 float* values = data.data() + static_cast<std::size_t>(row) * factors.size();
                 for (std::size_t i = 0; i < factors.size(); ++i) {
                   values[i] *= factors[i];
                 }
               });
}

void ExecutionSession::round(ValueId id, Activations& made) const {
  if (integers_ == nullptr) {
    return;
  }
  if (const std::optional<AffineScale> scale = integers_->find(id, made.data)) {
    for_each_row(made.rows, made.width, control_, [&](std::int64_t row) {
      integers_->round({made.data.data() + row * made.width, static_cast<std::size_t>(made.width)}, *scale);
    });
  }
}

void ExecutionSession::logits(std::span<const std::int64_t> rows,
                              const std::function<void(std::size_t, std::size_t, std::span<float>)>& sink,
                              std::size_t at_once) {
  const Node& head = plan_.graph().node(plan_.head());
  const Activations& hidden = value(head.inputs[0]);
  const std::int64_t vocab = head.shape.back().value;
  if (at_once == 0) {
    at_once = static_cast<std::size_t>(std::clamp<std::int64_t>(kLogitElements / vocab, 16, 1024));
  }
  head_output_.width = vocab;
  for (std::size_t first = 0; first < rows.size(); first += at_once) {
    const std::size_t count = std::min(at_once, rows.size() - first);
    head_input_.resize(count * static_cast<std::size_t>(hidden.width));
    head_output_.rows = static_cast<std::int64_t>(count);
    head_output_.data.resize(count * static_cast<std::size_t>(vocab));
    for (std::size_t i = 0; i < count; ++i) {
      std::ranges::copy(hidden.row(rows[first + i]),
                        head_input_.begin() + static_cast<std::ptrdiff_t>(i) * hidden.width);
    }
    layers_.run(head, head_input_, head_output_.data, head_output_.rows, control_);
    round(plan_.head(), head_output_);
    sink(first, count, head_output_.data);
  }
}

std::vector<std::vector<float>> run_model(const ExecutionPlan& plan, const Model& model,
                                          const TokenSequences& sequences, const ModelLayers& layers,
                                          const std::optional<StaticValues>& integers, const RunControl& control) {
  if (plan.head() < 0) {
    throw Error(ErrorCode::kUnsupported, "graph", "its output is not a linear layer");
  }
  ExecutionSession session(plan, model, layers, control, integers ? &*integers : nullptr);
  session.begin(make_batch(model, sequences));
  session.run_to_output();
  std::vector<std::vector<float>> results;
  const auto vocab = static_cast<std::size_t>(model.config.vocab_size);
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    std::vector<std::int64_t> rows(sequences[i].size());
    std::iota(rows.begin(), rows.end(), session.offsets()[i]);
    std::vector<float>& result = results.emplace_back(rows.size() * vocab);
    session.logits(rows, [&](std::size_t first, std::size_t, std::span<const float> values) {
      std::ranges::copy(values, result.begin() + static_cast<std::ptrdiff_t>(first * vocab));
    });
  }
  return results;
}

std::vector<std::vector<float>> forward(const Model& model, const TokenSequences& sequences,
                                        const QuantizationPlan* plan, const RunControl& control) {
  return run_model(ExecutionPlan(model.graph), model, sequences, LinearLayers(model, plan),
                   make_static_values(model, plan), control);
}

}  // namespace diffulex_edge
