// softmax(scale * q k^T + mask) v for each head of each sequence, whose earlier tokens may be in a cache.

#include <algorithm>
#include <functional>

#include "core/linear_algebra.h"
#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "quant/affine_scale.h"
#include "runtime/kernels/activation_kernels.h"
#include "runtime/operators/operators.h"
#include "runtime/operators/strides.h"

namespace diffulex_edge::operators {
namespace {

constexpr std::int64_t kAttentionRows = 128;  // queries whose scores are in memory at once, for each thread
constexpr float kUnseen = -1e4F;              // a mask's values below it hide a key: its score is not observed

// One sequence's operands.
struct Sequence {
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  const float* mask = nullptr;  // [queries, keys], or null
  float* target = nullptr;
  std::int64_t start = 0;  // position of the first query
  std::int64_t queries = 0;
  std::int64_t keys = 0;
};

// A tile of one head's queries.
struct Item {
  const Sequence* sequence = nullptr;
  std::int64_t query = 0;
  std::int64_t head = 0;
};

class Attention {
 public:
  Attention(const OperatorContext& context, ValueId id, Activations& result)
      : context_(context), id_(id), node_(context.node(id)) {
    const Shape& q = context.node(node_.inputs[0]).shape;
    const Shape& k = context.node(node_.inputs[1]).shape;
    head_dim_ = q[2].value;
    heads_ = q[1].value;
    q_width_ = heads_ * head_dim_;
    kv_width_ = k[1].value * head_dim_;
    group_ = q[1].value / k[1].value;
    scale_ = std::get<AttentionAttributes>(node_.attributes).scale;
    if (node_.inputs.size() > 3) {
      const Node& mask = context.node(node_.inputs[3]);
      if (mask.op == Op::kBlockCausalMask) {
        block_ = std::get<BlockCausalMaskAttributes>(mask.attributes).block_length;
      } else {
        mask_ = node_.inputs[3];
      }
    }
    if (context.integers != nullptr) {
      scale_queries();
    }
    find_sequences(result);
  }

  void run() {
    std::vector<Item> items;
    for (const Sequence& sequence : sequences_) {
      for (std::int64_t query = 0; query < sequence.queries; query += kAttentionRows) {
        for (std::int64_t head = 0; head < heads_; ++head) {
          items.push_back({.sequence = &sequence, .query = query, .head = head});
        }
      }
    }
    ranges_.resize(context_.scratch.size());
    parallel_for(items.size(), context_.control,
                 [&](std::size_t index, std::size_t worker) { run(items[index], worker); });
    if (context_.scores) {
      context_.scores = ActivationRange{};
      for (const ActivationRange& range : ranges_) {
        context_.scores->min = std::min(context_.scores->min, range.min);
        context_.scores->max = std::max(context_.scores->max, range.max);
      }
    }
  }

 private:
  // In integers, queries are scaled on their own.
  void scale_queries() {
    const StaticValues& integers = *context_.integers;
    if (mask_ >= 0) {
      throw Error(ErrorCode::kUnsupported, "attention", "in integers, the CPU runtime knows block-causal masks only");
    }
    scaled_ = context_.value(node_.inputs[0]);
    const AffineScale scale = integers.scaled_queries(node_.inputs[0], scale_);
    for_each_row(scaled_.rows, scaled_.width, context_.control, [&](std::int64_t row) {
      const std::span queries(scaled_.data.data() + row * scaled_.width, static_cast<std::size_t>(scaled_.width));
      std::ranges::for_each(queries, [&](float& x) { x *= scale_; });
      integers.round(queries, scale);
    });
    scale_ = 1.0F;
  }

  void find_sequences(Activations& result) {
    const Tensors q(context_, node_.inputs[0]);
    const Tensors k(context_, node_.inputs[1]);
    const Tensors v(context_, node_.inputs[2]);
    const Tensors target(context_, id_);
    const Activations& queries = context_.integers == nullptr ? context_.value(node_.inputs[0]) : scaled_;
    for (std::size_t i = 0; i < target.count(); ++i) {
      Sequence& sequence = sequences_.emplace_back();
      sequence.q = queries.data.data() + q.begin(i);
      sequence.k = context_.value(node_.inputs[1]).data.data() + k.begin(i);
      sequence.v = context_.value(node_.inputs[2]).data.data() + v.begin(i);
      sequence.target = result.data.data() + target.begin(i);
      sequence.queries = q.sizes(i)[0];
      sequence.keys = sequence.queries;
      if (mask_ >= 0) {
        sequence.mask = context_.value(mask_).data.data() + Tensors(context_, mask_).begin(i);
      }
      if (context_.cache != nullptr) {
        sequence.start = context_.batch.starts[i];
        const auto count = static_cast<std::size_t>(sequence.queries * kv_width_);
        const KeyValueCache::Tokens all =
            context_.cache->put(id_, i, sequence.start, {sequence.k, count}, {sequence.v, count}, kv_width_);
        sequence.k = all.keys.data();
        sequence.v = all.values.data();
        sequence.keys = sequence.start + sequence.queries;
      }
    }
  }

  // Keys that a query sees; the rest of them come behind.
  std::int64_t seen_by(const Sequence& sequence, std::int64_t query) const {
    return block_ == 0 ? sequence.keys : std::min(sequence.keys, ((sequence.start + query) / block_ + 1) * block_);
  }

  void run(const Item& item, std::size_t worker) {
    const Sequence& sequence = *item.sequence;
    const std::int64_t queries = std::min(kAttentionRows, sequence.queries - item.query);
    // Keys beyond the last block that a tile of queries sees are not touched.
    const std::int64_t keys = seen_by(sequence, item.query + queries - 1);
    std::vector<float>& scores = context_.scratch[worker];
    scores.resize(std::max(scores.size(), static_cast<std::size_t>(queries * keys)));
    const std::int64_t q_at = item.query * q_width_ + item.head * head_dim_;
    const std::int64_t kv_at = item.head / group_ * head_dim_;
    multiply_transposed({.m = queries, .n = keys, .k = head_dim_, .alpha = scale_}, sequence.q + q_at, q_width_,
                        sequence.k + kv_at, kv_width_, scores.data(), keys);
    for (std::int64_t i = 0; i < queries; ++i) {
      float* row = scores.data() + i * keys;
      const std::int64_t seen = seen_by(sequence, item.query + i);
      const float* mask = sequence.mask == nullptr ? nullptr : sequence.mask + (item.query + i) * sequence.keys;
      if (context_.scores) {
        observe({row, static_cast<std::size_t>(seen)}, mask, ranges_[worker]);
      }
      softmax({row, static_cast<std::size_t>(seen)}, mask);
      std::fill(row + seen, row + keys, 0.0F);
    }
    multiply({.m = queries, .n = head_dim_, .k = keys}, scores.data(), keys, sequence.v + kv_at, kv_width_,
             sequence.target + q_at, q_width_);
  }

  static void observe(std::span<const float> scores, const float* mask, ActivationRange& range) {
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (mask == nullptr || mask[i] > kUnseen) {
        range.min = std::min(range.min, scores[i]);
        range.max = std::max(range.max, scores[i]);
      }
    }
  }

  // Of one query's scores, in place.
  void softmax(std::span<float> scores, const float* mask) const {
    const StaticValues* integers = context_.integers;
    if (integers == nullptr) {
      if (mask != nullptr) {
        std::ranges::transform(scores, std::span(mask, scores.size()), scores.begin(), std::plus<>());
      }
      kernels::softmax_row(scores.data(), scores.size());
      return;
    }
    integers->round(scores, integers->scores(id_));
    if (block_ != 0 && block_ < context_.seq_len) {
      integers->round(scores, integers->masked_scores(id_));
    }
    kernels::softmax_row(scores.data(), scores.size());
    integers->round(scores, integers->shares());
  }

  const OperatorContext& context_;
  ValueId id_;
  const Node& node_;
  std::int64_t head_dim_ = 0;
  std::int64_t heads_ = 0;
  std::int64_t q_width_ = 0;
  std::int64_t kv_width_ = 0;
  std::int64_t group_ = 1;
  std::int64_t block_ = 0;  // 0: every token sees every other
  ValueId mask_ = -1;       // a mask that is a value of the graph
  float scale_ = 1.0F;
  Activations scaled_;  // queries, in integers
  std::vector<Sequence> sequences_;
  std::vector<ActivationRange> ranges_;  // of each thread
};

void attention(const OperatorContext& context, ValueId id, Activations& result) {
  Attention(context, id, result).run();
}

}  // namespace

Kernel attention_kernel(const ExecutionPlan& plan, ValueId id) {
  const Node& node = plan.graph().node(id);
  const bool has_mask = node.inputs.size() > 3;
  if (has_mask && plan.graph().node(node.inputs[3]).op != Op::kBlockCausalMask) {
    return {"masked attention", attention};
  }
  return {has_mask ? "block-causal attention" : "full attention", attention};
}

}  // namespace diffulex_edge::operators
