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

constexpr std::int64_t kAttentionRows = 128;  // queries, of all heads that share keys, at once for each thread
constexpr std::int64_t kCachedKeys = 128;     // that are converted to float32 at once
constexpr float kUnseen = -1e4F;              // a mask's values below it hide a key: its score is not observed

// One sequence's operands.
struct Sequence {
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  const float* mask = nullptr;  // [queries, keys], or null
  float* target = nullptr;
  std::size_t index = 0;   // in the batch
  std::int64_t start = 0;  // position of the first query
  std::int64_t block = 0;  // of the mask; 0: all keys are seen
  std::int64_t queries = 0;
  std::int64_t keys = 0;
};

// A tile of the queries of all heads that share one head of keys and values, which are then read once for them.
struct Item {
  const Sequence* sequence = nullptr;
  std::int64_t query = 0;
  std::int64_t kv_head = 0;
};

// Rows of one head.
struct HeadRows {
  const float* data = nullptr;
  std::int64_t stride = 0;  // elements from one row to the next
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
    kv_heads_ = k[1].value;
    kv_width_ = kv_heads_ * head_dim_;
    group_ = heads_ / kv_heads_;
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
      for (std::int64_t query = 0; query < sequence.queries; query += queries_at_once()) {
        for (std::int64_t head = 0; head < kv_heads_; ++head) {
          items.push_back({.sequence = &sequence, .query = query, .kv_head = head});
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
      const bool is_causal = block_ == 0 && !context_.batch.causal.empty() && context_.batch.causal[i];
      sequence.block = is_causal ? 1 : block_;
      if (mask_ >= 0) {
        sequence.mask = context_.value(mask_).data.data() + Tensors(context_, mask_).begin(i);
      }
      if (context_.cache != nullptr) {
        sequence.index = i;
        sequence.start = context_.batch.starts[i];
        sequence.keys = context_.batch.end(i);
        context_.cache->write(id_, context_.batch.cache_index(i), sequence.start, sequence.queries, sequence.k,
                              sequence.v);
      }
    }
  }

  // Keys that a query sees; the rest of them come behind.
  static std::int64_t seen_by(const Sequence& sequence, std::int64_t query) {
    const std::int64_t block = sequence.block;
    return block == 0 ? sequence.keys : std::min(sequence.keys, ((sequence.start + query) / block + 1) * block);
  }

  std::int64_t queries_at_once() const { return std::max<std::int64_t>(1, kAttentionRows / group_); }

  void run(const Item& item, std::size_t worker) {
    const Sequence& sequence = *item.sequence;
    const std::int64_t queries = std::min(queries_at_once(), sequence.queries - item.query);
    const std::int64_t rows = queries * group_;  // head by head
    // Keys beyond the last block that a tile of queries sees are not touched.
    const std::int64_t keys = seen_by(sequence, item.query + queries - 1);
    const std::int64_t at_once = context_.cache == nullptr || in_place() ? keys : std::min(keys, kCachedKeys);
    std::vector<float>& scratch = context_.scratch[worker];
    const std::int64_t needed = rows * (keys + 2 * head_dim_) + at_once * head_dim_;
    scratch.resize(std::max(scratch.size(), static_cast<std::size_t>(needed)));
    float* scores = scratch.data();
    float* q = scores + rows * keys;
    float* target = q + rows * head_dim_;
    const std::span<float> converted(target + rows * head_dim_, static_cast<std::size_t>(at_once * head_dim_));
    for_each_query(item, queries, [&](std::int64_t row, std::int64_t at) {
      std::copy_n(sequence.q + at, head_dim_, q + row * head_dim_);
    });
    for (std::int64_t begin = 0; begin < keys; begin += at_once) {
      const std::int64_t count = std::min(at_once, keys - begin);
      const HeadRows k = head_rows(KeyValueCache::Part::kKeys, item, begin, count, converted);
      multiply_transposed({.m = rows, .n = count, .k = head_dim_, .alpha = scale_}, q, head_dim_, k.data, k.stride,
                          scores + begin, keys);
    }
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t query = item.query + i % queries;
      softmax({scores + i * keys, static_cast<std::size_t>(keys)}, sequence, query, worker);
    }
    for (std::int64_t begin = 0; begin < keys; begin += at_once) {
      const std::int64_t count = std::min(at_once, keys - begin);
      const HeadRows v = head_rows(KeyValueCache::Part::kValues, item, begin, count, converted);
      multiply({.m = rows, .n = head_dim_, .k = count, .beta = begin == 0 ? 0.0F : 1.0F}, scores + begin, keys, v.data,
               v.stride, target, head_dim_);
    }
    for_each_query(item, queries, [&](std::int64_t row, std::int64_t at) {
      std::copy_n(target + row * head_dim_, head_dim_, sequence.target + at);
    });
  }

  // Calls body(row, place in the tensor of queries) for each query of each head of the item.
  template <typename Body>
  void for_each_query(const Item& item, std::int64_t queries, const Body& body) const {
    for (std::int64_t head = 0; head < group_; ++head) {
      for (std::int64_t i = 0; i < queries; ++i) {
        body(head * queries + i, (item.query + i) * q_width_ + (item.kv_head * group_ + head) * head_dim_);
      }
    }
  }

  bool in_place() const { return context_.cache->options().dtype == CacheDtype::FP32; }

  HeadRows head_rows(KeyValueCache::Part part, const Item& item, std::int64_t begin, std::int64_t count,
                     std::span<float> converted) const {
    const Sequence& sequence = *item.sequence;
    if (context_.cache != nullptr) {
      return {.data = context_.cache->rows(part, id_, context_.batch.cache_index(sequence.index), item.kv_head, begin,
                                           count, converted),
              .stride = head_dim_};
    }
    const float* first = part == KeyValueCache::Part::kKeys ? sequence.k : sequence.v;
    return {.data = first + begin * kv_width_ + item.kv_head * head_dim_, .stride = kv_width_};
  }

  // Of one query's scores, in place; those of keys that it does not see become 0.
  void softmax(std::span<float> scores, const Sequence& sequence, std::int64_t query, std::size_t worker) {
    const auto seen = static_cast<std::size_t>(seen_by(sequence, query));
    const float* mask = sequence.mask == nullptr ? nullptr : sequence.mask + query * sequence.keys;
    if (context_.scores) {
      observe(scores.first(seen), mask, ranges_[worker]);
    }
    softmax(scores.first(seen), mask);
    std::ranges::fill(scores.subspan(seen), 0.0F);
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
  std::int64_t kv_heads_ = 0;
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
