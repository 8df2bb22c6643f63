#include "runtime/executor.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "core/linear_algebra.h"
#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "runtime/kernels/activation_kernels.h"
#include "runtime/linear_layers.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kRowsAtOnce = 64;            // that one thread takes of cheap work
constexpr std::int64_t kAttentionRows = 128;        // queries whose scores are in memory at once, for each thread
constexpr std::int64_t kLogitElements = 1LL << 25;  // float32 logits in memory at once

// Sources have no work of their own: weights are read by their users, the mask is known to the attention.
bool is_passed_over(Op op) {
  return op == Op::kInput || op == Op::kWeight || op == Op::kConstant || op == Op::kBlockCausalMask;
}

// Elements of one row of a value: all dimensions but those of the sequence and the leading 1.
std::int64_t row_width(const Shape& shape) {
  std::int64_t width = 1;
  for (const Dim& dim : shape) {
    width *= dim.is_sequence ? 1 : dim.value;
  }
  return width;
}

Activations like(std::int64_t rows, std::int64_t width) {
  return {.rows = rows, .width = width, .data = std::vector<float>(static_cast<std::size_t>(rows * width))};
}

float* row_of(Activations& value, std::int64_t row) { return value.data.data() + row * value.width; }

float sigmoid(float x) { return 1.0F / (1.0F + std::exp(-x)); }

// A row of a value that may be the same for every token.
const float* row_of(const Activations& value, std::int64_t row) {
  return value.data.data() + (value.rows == 1 ? 0 : row * value.width);
}

}  // namespace

std::int64_t widest_activation(const ModelConfig& config) {
  return std::max({config.intermediate_size, config.num_heads * config.head_dim, config.hidden_size});
}

Executor::Executor(const Model& model, const TokenSequences& sequences, const ModelLayers& layers,
                   const RunControl& control, const StaticValues* integers)
    : model_(model), sequences_(sequences), layers_(layers), control_(control), integers_(integers) {
  offsets_.push_back(0);
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const auto length = static_cast<std::int64_t>(sequences[i].size());
    const std::string where = "sequence " + std::to_string(i);
    if (length == 0 || length > model.seq_len) {
      throw Error(ErrorCode::kInvalidArgument, where,
                  std::to_string(length) + " tokens are not in 1.." + std::to_string(model.seq_len),
                  "load the model with another sequence length, or cut the sequence");
    }
    for (const std::int64_t id : sequences[i]) {
      if (id < 0 || id >= model.config.vocab_size) {
        throw Error(
            ErrorCode::kInvalidArgument, where,
            "token " + std::to_string(id) + " is not in the vocabulary of " + std::to_string(model.config.vocab_size));
      }
    }
    offsets_.push_back(offsets_.back() + length);
  }
  tokens_ = offsets_.back();
  if (tokens_ == 0) {
    throw Error(ErrorCode::kInvalidArgument, "batch", "has no sequence");
  }
  const auto& nodes = model.graph.nodes();
  const Node& head = model.graph.node(model.graph.output());
  if (head.op != Op::kLinear) {
    throw Error(ErrorCode::kUnsupported, "graph", "its output is not a linear layer");
  }
  values_.resize(nodes.size());
  last_use_.resize(nodes.size());
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    for (const ValueId input : nodes[i].inputs) {
      last_use_[static_cast<std::size_t>(input)] = i;
    }
    if (nodes[i].op == Op::kConstant) {
      const auto& data = std::get<ConstantAttributes>(nodes[i].attributes).values;
      values_[i] = {.rows = 1, .width = static_cast<std::int64_t>(data.size()), .data = data};
    }
  }
  advance();
}

void Executor::advance() {
  const auto& nodes = model_.graph.nodes();
  while (position_ < nodes.size() && is_passed_over(nodes[position_].op)) {
    ++position_;
  }
}

const Node* Executor::next() const {
  return static_cast<ValueId>(position_) == model_.graph.output() ? nullptr : &model_.graph.nodes()[position_];
}

void Executor::step() {
  const Node& node = model_.graph.nodes()[position_];
  if (control_.stop.stop_requested()) {
    throw Error(ErrorCode::kCancelled, {}, "stopped");
  }
  Activations result;
  const auto is_last_use = [&](ValueId id) { return last_use_[static_cast<std::size_t>(id)] == position_; };
  if (node.op == Op::kReshape) {
    Activations& source = values_[static_cast<std::size_t>(node.inputs[0])];
    result = is_last_use(node.inputs[0]) ? std::move(source) : source;
  } else {
    result = execute(node);
  }
  round(static_cast<ValueId>(position_), result);
  for (const ValueId input : node.inputs) {
    if (is_last_use(input)) {
      values_[static_cast<std::size_t>(input)] = {};
    }
  }
  last_ = static_cast<ValueId>(position_);
  values_[position_] = std::move(result);
  ++position_;
  advance();
}

void Executor::append_copies(std::size_t sequences) {
  if (tokens_ < 2) {
    throw Error(ErrorCode::kInternal, "copies", "a single token's values can't be told from those of all tokens");
  }
  const std::int64_t rows = offsets_[sequences];
  for (Activations& value : values_) {
    if (value.rows == tokens_) {
      const auto old_size = static_cast<std::ptrdiff_t>(value.data.size());
      value.rows += rows;
      value.data.resize(static_cast<std::size_t>(value.rows * value.width));
      std::copy_n(value.data.begin(), rows * value.width, value.data.begin() + old_size);
    }
  }
  for (std::size_t i = 0; i < sequences; ++i) {
    sequences_.push_back(sequences_[i]);
    offsets_.push_back(offsets_.back() + offsets_[i + 1] - offsets_[i]);
  }
  tokens_ += rows;
}

std::span<float> Executor::mutable_rows(ValueId id, std::int64_t begin, std::int64_t count) {
  Activations& rows = values_[static_cast<std::size_t>(id)];
  return std::span(rows.data).subspan(static_cast<std::size_t>(begin * rows.width),
                                      static_cast<std::size_t>(count * rows.width));
}

void Executor::scale_columns(ValueId id, std::span<const float> factors) {
  Activations& scaled = values_[static_cast<std::size_t>(id)];
  for_each_row(scaled.rows, [&](std::int64_t row) {
    float* data = row_of(scaled, row);
    for (std::size_t i = 0; i < factors.size(); ++i) {
      data[i] *= factors[i];
    }
  });
}

void Executor::round(ValueId id, Activations& made) const {
  if (integers_ == nullptr) {
    return;
  }
  if (const std::optional<AffineScale> scale = integers_->find(id, made.data)) {
    for_each_row(made.rows, [&](std::int64_t row) {
      integers_->round({row_of(made, row), static_cast<std::size_t>(made.width)}, *scale);
    });
  }
}

void Executor::for_each_row(std::int64_t rows, const std::function<void(std::int64_t)>& work) const {
  parallel_for(static_cast<std::size_t>((rows + kRowsAtOnce - 1) / kRowsAtOnce), control_,
               [&](std::size_t tile, std::size_t) {
                 const std::int64_t begin = static_cast<std::int64_t>(tile) * kRowsAtOnce;
                 const std::int64_t end = std::min(rows, begin + kRowsAtOnce);
                 for (std::int64_t row = begin; row < end; ++row) {
                   work(row);
                 }
               });
}

Activations Executor::execute(const Node& node) {
  switch (node.op) {
    case Op::kPositions:
      return positions();
    case Op::kEmbedding:
    case Op::kGather:
      return embedding(node);
    case Op::kLinear:
      return linear(node);
    case Op::kRmsNorm:
      return rms_norm(node);
    case Op::kRope:
      return rope(node);
    case Op::kAttention:
      return attention(node);
    case Op::kSwiGlu:
      return swiglu(node);
    case Op::kAdd:
    case Op::kSubtract:
    case Op::kMultiply:
      return binary(node);
    case Op::kNegate:
    case Op::kSquare:
    case Op::kSigmoid:
    case Op::kSin:
    case Op::kCos:
    case Op::kFloor:
      return unary(node);
    case Op::kConcat:
      return concat(node);
    default:
      throw Error(ErrorCode::kUnsupported, std::string(to_string(node.op)),
                  "the CPU runtime executes models' graphs, not their decompositions");
  }
}

Activations Executor::positions() const {
  Activations result = like(tokens_, 1);
  for (std::size_t i = 0; i + 1 < offsets_.size(); ++i) {
    for (std::int64_t token = offsets_[i]; token < offsets_[i + 1]; ++token) {
      result.data[static_cast<std::size_t>(token)] = static_cast<float>(token - offsets_[i]);
    }
  }
  return result;
}

Activations Executor::embedding(const Node& node) const {
  const std::string& tensor = model_.graph.tensor(node.inputs[0]);
  std::vector<std::int64_t> ids;
  for (const auto& sequence : sequences_) {
    ids.insert(ids.end(), sequence.begin(), sequence.end());
  }
  Activations result = like(tokens_, row_width(node.shape));
  for_each_row(tokens_, [&](std::int64_t row) {
    layers_.load_weight(node, tensor, ids[static_cast<std::size_t>(row)], 1,
                        {row_of(result, row), static_cast<std::size_t>(result.width)});
  });
  return result;
}

Activations Executor::linear(const Node& node) const {
  const Activations& x = value(node.inputs[0]);
  Activations result = like(x.rows, row_width(node.shape));
  layers_.run(node, x.data, result.data, x.rows, control_);
  return result;
}

Activations Executor::rms_norm(const Node& node) const {
  const Activations& x = value(node.inputs[0]);
  const std::string& tensor = model_.graph.tensor(node.inputs[1]);
  std::vector<float> weight = layers_.load_vector(tensor);
  if (integers_ != nullptr) {
    integers_->round(weight, integers_->constant(weight));
  }
  const float epsilon = std::get<RmsNormAttributes>(node.attributes).epsilon;
  const auto size = static_cast<std::int64_t>(weight.size());  // of a head, or of the whole row
  Activations result = like(x.rows, x.width);
  for_each_row(x.rows, [&](std::int64_t row) {
    for (std::int64_t begin = 0; begin < x.width; begin += size) {
      kernels::rms_norm_row(row_of(x, row) + begin, weight.data(), epsilon, row_of(result, row) + begin, weight.size());
    }
  });
  return result;
}

Activations Executor::rope(const Node& node) const {
  const Activations& x = value(node.inputs[0]);
  const Activations& cos = value(node.inputs[1]);
  const Activations& sin = value(node.inputs[2]);
  Activations result = like(x.rows, x.width);
  if (integers_ != nullptr) {
    const AffineScale products = integers_->turned(node.inputs[0]);
    for_each_row(x.rows, [&](std::int64_t row) {
      for (std::int64_t begin = 0; begin < x.width; begin += cos.width) {
        rope_row_in_integers(x.row(row).subspan(static_cast<std::size_t>(begin)), cos.row(cos.rows == 1 ? 0 : row),
                             sin.row(sin.rows == 1 ? 0 : row), row_of(result, row) + begin, products);
      }
    });
    return result;
  }
  for_each_row(x.rows, [&](std::int64_t row) {
    for (std::int64_t begin = 0; begin < x.width; begin += cos.width) {
      kernels::rope_row(row_of(x, row) + begin, row_of(cos, row), row_of(sin, row), row_of(result, row) + begin,
                        static_cast<std::size_t>(cos.width));
    }
  });
  return result;
}

// What kernels::rope_row computes, with integers for each of the two products.
void Executor::rope_row_in_integers(std::span<const float> x, std::span<const float> cos, std::span<const float> sin,
                                    float* target, const AffineScale& products) const {
  const std::size_t size = cos.size();
  std::vector<float> straight(size);
  std::vector<float> crossed(size);
  for (std::size_t i = 0; i < size; ++i) {
    straight[i] = x[i] * cos[i];
    crossed[i] = x[(i + size / 2) % size] * sin[i];
  }
  integers_->round(straight, products);
  integers_->round(crossed, products);
  kernels::add_rows(straight.data(), crossed.data(), target, size);
}

// Softmax(scale * q k^T + mask) v for each head of each sequence. Keys beyond the last block that a tile of queries
// sees are not touched.
Activations Executor::attention(const Node& node) {
  const float scale = std::get<AttentionAttributes>(node.attributes).scale;
  // In integers, queries are scaled on their own.
  const Activations scaled = integers_ == nullptr ? Activations() : scaled_queries(node.inputs[0], scale);
  const Activations& q = integers_ == nullptr ? value(node.inputs[0]) : scaled;
  const float factor = integers_ == nullptr ? scale : 1.0F;
  const Activations& k = value(node.inputs[1]);
  const Activations& v = value(node.inputs[2]);
  const std::int64_t head_dim = model_.graph.shape(node.inputs[0])[2].value;
  const std::int64_t heads = q.width / head_dim;
  const std::int64_t group = q.width / k.width;
  std::int64_t block = 0;  // 0: every token sees every other
  if (node.inputs.size() > 3) {
    const Node& mask = model_.graph.node(node.inputs[3]);
    if (mask.op != Op::kBlockCausalMask) {
      throw Error(ErrorCode::kUnsupported, "attention", "the CPU runtime knows block-causal masks alone");
    }
    block = std::get<BlockCausalMaskAttributes>(mask.attributes).block_length;
  }

  struct Item {
    std::int64_t first = 0;  // token of the sequence's beginning
    std::int64_t length = 0;
    std::int64_t query = 0;  // first of the tile, within the sequence
    std::int64_t head = 0;
  };
  std::vector<Item> items;
  for (std::size_t i = 0; i + 1 < offsets_.size(); ++i) {
    const std::int64_t length = offsets_[i + 1] - offsets_[i];
    for (std::int64_t query = 0; query < length; query += kAttentionRows) {
      for (std::int64_t head = 0; head < heads; ++head) {
        items.push_back({.first = offsets_[i], .length = length, .query = query, .head = head});
      }
    }
  }
  Activations result = like(q.rows, q.width);
  std::vector<std::vector<float>> scratch(thread_count(control_));
  std::vector<ActivationRange> ranges(scratch.size());
  parallel_for(items.size(), control_, [&](std::size_t index, std::size_t worker) {
    const Item& item = items[index];
    const std::int64_t queries = std::min(kAttentionRows, item.length - item.query);
    const auto seen_by = [&](std::int64_t query) {
      return block == 0 ? item.length : std::min(item.length, (query / block + 1) * block);
    };
    const std::int64_t keys = seen_by(item.query + queries - 1);
    std::vector<float>& scores = scratch[worker];
    scores.resize(static_cast<std::size_t>(queries * keys));
    const std::int64_t q_at = (item.first + item.query) * q.width + item.head * head_dim;
    const std::int64_t kv_at = item.first * k.width + item.head / group * head_dim;
    multiply_transposed({.m = queries, .n = keys, .k = head_dim, .alpha = factor}, q.data.data() + q_at, q.width,
                        k.data.data() + kv_at, k.width, scores.data(), keys);
    for (std::int64_t i = 0; i < queries; ++i) {
      float* row = scores.data() + i * keys;
      const std::int64_t seen = seen_by(item.query + i);
      if (scores_) {
        const auto [least, greatest] = std::minmax_element(row, row + seen);
        ranges[worker].min = std::min(ranges[worker].min, *least);
        ranges[worker].max = std::max(ranges[worker].max, *greatest);
      }
      softmax({row, static_cast<std::size_t>(seen)}, block != 0 && block < model_.seq_len);
      std::fill(row + seen, row + keys, 0.0F);
    }
    multiply({.m = queries, .n = head_dim, .k = keys}, scores.data(), keys, v.data.data() + kv_at, v.width,
             result.data.data() + q_at, q.width);
  });
  if (scores_) {
    scores_ = ActivationRange{};
    for (const ActivationRange& range : ranges) {
      scores_->min = std::min(scores_->min, range.min);
      scores_->max = std::max(scores_->max, range.max);
    }
  }
  return result;
}

Activations Executor::scaled_queries(ValueId id, float scale) const {
  Activations result = value(id);
  const AffineScale integers = integers_->scaled_queries(id, scale);
  for_each_row(result.rows, [&](std::int64_t row) {
    const std::span queries(row_of(result, row), static_cast<std::size_t>(result.width));
    std::ranges::for_each(queries, [=](float& x) { x *= scale; });
    integers_->round(queries, integers);
  });
  return result;
}

// Of one query's scores, in place; of the attention that is executed.
void Executor::softmax(std::span<float> scores, bool is_masked) const {
  if (integers_ == nullptr) {
    kernels::softmax_row(scores.data(), scores.size());
    return;
  }
  const auto attention = static_cast<ValueId>(position_);
  integers_->round(scores, integers_->scores(attention));
  if (is_masked) {
    integers_->round(scores, integers_->masked_scores(attention));
  }
  kernels::softmax_row(scores.data(), scores.size());
  integers_->round(scores, integers_->shares());
}

Activations Executor::swiglu(const Node& node) const {
  const Activations& gate = value(node.inputs[0]);
  const Activations& up = value(node.inputs[1]);
  Activations result = like(gate.rows, gate.width);
  if (integers_ != nullptr) {
    const AffineScale shares = integers_->shares();
    const AffineScale silu = integers_->silu(node.inputs[0]);
    for_each_row(gate.rows, [&](std::int64_t row) {
      const std::span values(row_of(result, row), static_cast<std::size_t>(result.width));
      std::transform(gate.row(row).begin(), gate.row(row).end(), values.begin(), sigmoid);
      integers_->round(values, shares);
      std::ranges::transform(values, gate.row(row), values.begin(), std::multiplies<>());
      integers_->round(values, silu);
      std::ranges::transform(values, up.row(row), values.begin(), std::multiplies<>());
    });
    return result;
  }
  for_each_row(gate.rows, [&](std::int64_t row) {
    kernels::swiglu_row(row_of(gate, row), row_of(up, row), row_of(result, row), static_cast<std::size_t>(gate.width));
  });
  return result;
}

Activations Executor::binary(const Node& node) const {
  const Activations& a = value(node.inputs[0]);
  const Activations& b = value(node.inputs[1]);
  const std::int64_t width = row_width(node.shape);
  if ((a.width != width && a.width != 1) || (b.width != width && b.width != 1)) {
    throw Error(ErrorCode::kUnsupported, std::string(to_string(node.op)),
                "the CPU runtime broadcasts whole rows and single values alone");
  }
  Activations result = like(std::max(a.rows, b.rows), width);
  if (node.op == Op::kAdd && a.width == b.width) {
    for_each_row(result.rows, [&](std::int64_t row) {
      kernels::add_rows(row_of(a, row), row_of(b, row), row_of(result, row), static_cast<std::size_t>(width));
    });
    return result;
  }
  for_each_row(result.rows, [&](std::int64_t row) {
    const float* left = row_of(a, row);
    const float* right = row_of(b, row);
    float* target = row_of(result, row);
    for (std::int64_t i = 0; i < width; ++i) {
      const float x = left[a.width == 1 ? 0 : i];
      const float y = right[b.width == 1 ? 0 : i];
      if (node.op == Op::kMultiply) {
        target[i] = x * y;
      } else {
        target[i] = node.op == Op::kAdd ? x + y : x - y;
      }
    }
  });
  return result;
}

Activations Executor::unary(const Node& node) const {
  Activations result = value(node.inputs[0]);
  const auto apply = [&](float x) {
    switch (node.op) {
      case Op::kNegate:
        return -x;
      case Op::kSquare:
        return x * x;
      case Op::kSigmoid:
        return sigmoid(x);
      case Op::kSin:
        return std::sin(x);
      case Op::kCos:
        return std::cos(x);
      default:
        return std::floor(x);
    }
  };
  for_each_row(result.rows, [&](std::int64_t row) {
    float* data = row_of(result, row);
    std::transform(data, data + result.width, data, apply);
  });
  return result;
}

// Along the last dimension of values whose rows hold nothing else.
Activations Executor::concat(const Node& node) const {
  const auto axis = std::get<AxesAttributes>(node.attributes).axes[0];
  if (node.shape.size() != 2 || axis != 1) {
    throw Error(ErrorCode::kUnsupported, "concat", "the CPU runtime joins rows alone");
  }
  std::int64_t rows = 1;
  for (const ValueId input : node.inputs) {
    rows = std::max(rows, value(input).rows);
  }
  Activations result = like(rows, row_width(node.shape));
  for_each_row(rows, [&](std::int64_t row) {
    float* target = row_of(result, row);
    for (const ValueId input : node.inputs) {
      target = std::copy_n(row_of(value(input), row), value(input).width, target);
    }
  });
  return result;
}

void Executor::logits(std::span<const std::int64_t> rows,
                      const std::function<void(std::size_t, std::size_t, std::span<const float>)>& sink) const {
  const Node& head = model_.graph.node(model_.graph.output());
  const Activations& hidden = value(head.inputs[0]);
  const std::int64_t vocab = row_width(head.shape);
  const auto at_once = static_cast<std::size_t>(std::clamp<std::int64_t>(kLogitElements / vocab, 16, 1024));
  std::vector<float> input;
  Activations output{.rows = 0, .width = vocab, .data = {}};
  for (std::size_t first = 0; first < rows.size(); first += at_once) {
    const std::size_t count = std::min(at_once, rows.size() - first);
    input.resize(count * static_cast<std::size_t>(hidden.width));
    output.rows = static_cast<std::int64_t>(count);
    output.data.resize(count * static_cast<std::size_t>(vocab));
    for (std::size_t i = 0; i < count; ++i) {
      std::ranges::copy(hidden.row(rows[first + i]), input.begin() + static_cast<std::ptrdiff_t>(i) * hidden.width);
    }
    layers_.run(head, input, output.data, output.rows, control_);
    round(model_.graph.output(), output);
    sink(first, count, output.data);
  }
}

std::vector<std::vector<float>> run_model(const Model& model, const TokenSequences& sequences,
                                          const ModelLayers& layers, const std::optional<StaticValues>& integers,
                                          const RunControl& control) {
  Executor executor(model, sequences, layers, control, integers ? &*integers : nullptr);
  executor.run_to_output();
  std::vector<std::vector<float>> results;
  const auto vocab = static_cast<std::size_t>(model.config.vocab_size);
  for (std::size_t i = 0; i + 1 < executor.offsets().size(); ++i) {
    std::vector<std::int64_t> rows;
    for (std::int64_t row = executor.offsets()[i]; row < executor.offsets()[i + 1]; ++row) {
      rows.push_back(row);
    }
    std::vector<float>& result = results.emplace_back(rows.size() * vocab);
    executor.logits(rows, [&](std::size_t first, std::size_t, std::span<const float> values) {
      std::ranges::copy(values, result.begin() + static_cast<std::ptrdiff_t>(first * vocab));
    });
  }
  return results;
}

std::vector<std::vector<float>> forward(const Model& model, const TokenSequences& sequences,
                                        const QuantizationPlan* plan, const RunControl& control) {
  return run_model(model, sequences, LinearLayers(model, plan), make_static_values(model, plan), control);
}

}  // namespace diffulex_edge
