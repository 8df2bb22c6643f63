#include "runtime/linear_layers.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/linear_algebra.h"
#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "quant/affine_scale.h"
#include "quant/weight_decoder.h"
#include "quant/weight_encoder.h"
#include "runtime/kernels/activation_kernels.h"

namespace diffulex_edge {
namespace {

// A tile of weights in float32 stays in a core's cache; a tile of tokens bounds what one multiplication touches.
constexpr std::int64_t kTileElements = std::int64_t{1} << 19U;
constexpr std::int64_t kTileTokens = 1024;

std::int64_t tile_rows(std::int64_t rows, std::int64_t columns) {
  const std::int64_t wanted = std::clamp<std::int64_t>(kTileElements / columns, 32, 512);
  return std::min(rows, wanted);
}

// The input as the layer multiplies it: floats, or integers with a scale for each token.
struct PreparedInput {
  std::span<const float> values;
  std::vector<float> integers;      // holds `values` where they are integers
  std::vector<float> token_scales;  // empty: 1
};

PreparedInput prepare_input(std::span<const float> x, std::int64_t tokens, InputArithmetic arithmetic,
                            const LayerPlan* plan, const RunControl& control) {
  PreparedInput input{.values = x};
  if (arithmetic == InputArithmetic::kFloat) {
    return input;
  }
  const std::size_t width = x.size() / static_cast<std::size_t>(tokens);
  input.integers.resize(x.size());
  input.token_scales.resize(static_cast<std::size_t>(tokens));
  const AffineScale affine = plan->activations ? affine_scale(plan->activations->input, 8) : AffineScale();
  parallel_for(static_cast<std::size_t>((tokens + kTileTokens - 1) / kTileTokens), control,
               [&](std::size_t tile, std::size_t) {
                 const std::size_t begin = tile * kTileTokens;
                 const std::size_t end = std::min(begin + kTileTokens, static_cast<std::size_t>(tokens));
                 for (std::size_t token = begin; token < end; ++token) {
                   const float* source = x.data() + token * width;
                   float* target = input.integers.data() + token * width;
                   if (arithmetic == InputArithmetic::kDynamicInt8) {
                     input.token_scales[token] = kernels::quantize_row_dynamic(source, target, width);
                   } else {
                     kernels::quantize_row_static(source, target, width, affine.scale, affine.zero_point);
                     input.token_scales[token] = affine.scale;
                   }
                 }
               });
  input.values = input.integers;
  return input;
}

}  // namespace

// A model with experts has thousands of layers: the search begins where the last one ended.
const LayerPlan* LinearLayers::plan_of(const Node& user, const std::string& tensor) const {
  const std::size_t count = plan_ == nullptr ? 0 : plan_->layers.size();
  const std::size_t begin = last_found_.load(std::memory_order_relaxed);
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t place = (begin + i) % count;
    const LayerPlan& layer = plan_->layers[place];
    if (layer.layer == user.name && layer.tensor == tensor) {
      last_found_.store(place, std::memory_order_relaxed);
      return &layer;
    }
  }
  return find_plan(plan_, user, tensor);
}

void LinearLayers::load_weight(const Node& user, const std::string& tensor, std::int64_t row_begin, std::int64_t rows,
                               std::span<float> target) const {
  if (const auto found = replaced_.find(tensor); found != replaced_.end()) {
    const auto begin = found->second.begin() + row_begin * static_cast<std::int64_t>(target.size()) / rows;
    std::copy_n(begin, target.size(), target.begin());
    return;
  }
  const StoredWeight source = find_stored_weight(*model_.checkpoint, tensor);
  const LayerPlan* plan = plan_of(user, tensor);
  if (plan == nullptr || plan->format == source.format) {
    load_rows(source, row_begin, rows, target);
  } else {
    std::vector<std::byte> values(static_cast<std::size_t>(rows * plan->format.row_bytes(source.columns)));
    std::vector<std::byte> scales(
        static_cast<std::size_t>(rows * plan->format.scales_per_row(source.columns) * plan->format.scale_bytes()));
    EncodeScratch scratch;
    EncodeOptions options{.method = plan->method, .saturate_fp16 = plan_->config.saturate_fp16};
    if (plan->format.has_codebook()) {
      options.codebooks = &codebooks(*plan, source, {.threads = 1});
    }
    encode_rows(source, plan->format, options, row_begin, rows, scratch, values, scales);
    if (options.codebooks != nullptr) {
      decode_indices(*options.codebooks, values, row_begin, rows, source.columns, target);
    } else {
      decode_rows(plan->format, values, scales, rows, source.columns, target);
    }
  }
  source.release(row_begin, rows);
}

const Codebooks& LinearLayers::codebooks(const LayerPlan& plan, const StoredWeight& source,
                                         const RunControl& control) const {
  const std::scoped_lock lock(codebooks_mutex_);
  const auto found = codebooks_.find(&plan);
  if (found != codebooks_.end()) {
    return found->second;
  }
  const CodebookJob job{.source = source, .format = plan.format, .importance = plan.importance};
  return codebooks_.emplace(&plan, std::move(fit_codebooks(std::span(&job, 1), control).front())).first->second;
}

std::vector<float> LinearLayers::load_vector(const std::string& tensor) const {
  if (const auto found = replaced_.find(tensor); found != replaced_.end()) {
    return found->second;
  }
  return load_tensor(*model_.checkpoint, tensor);
}

void LinearLayers::run(const Node& node, std::span<const float> x, std::span<float> y, std::int64_t tokens,
                       const RunControl& control) const {
  const Graph& graph = model_.graph;
  const std::string& tensor = graph.tensor(node.inputs[1]);
  const std::int64_t columns = graph.shape(node.inputs[1])[1].value;
  const std::int64_t rows = graph.shape(node.inputs[1])[0].value;
  const LayerPlan* plan = plan_of(node, tensor);
  const InputArithmetic arithmetic = input_arithmetic(plan);
  const PreparedInput input = prepare_input(x, tokens, arithmetic, plan, control);
  const std::vector<float> bias =
      node.inputs.size() > 2 ? load_vector(graph.tensor(node.inputs[2])) : std::vector<float>();
  const OutputArithmetic output(arithmetic, plan, bias);

  if (plan != nullptr && plan->format.has_codebook()) {
    codebooks(*plan, find_stored_weight(*model_.checkpoint, tensor), control);  // with all threads
  }
  const std::int64_t height = tile_rows(rows, columns);
  struct Worker {
    std::vector<float> weight;
  };
  std::vector<Worker> workers(thread_count(control));
  parallel_for(static_cast<std::size_t>((rows + height - 1) / height), control, [&](std::size_t tile, std::size_t w) {
    const std::int64_t row_begin = static_cast<std::int64_t>(tile) * height;
    const std::int64_t count = std::min(height, rows - row_begin);
    std::vector<float>& weight = workers[w].weight;
    weight.resize(static_cast<std::size_t>(count * columns));
    load_weight(node, tensor, row_begin, count, weight);
    for (std::int64_t begin = 0; begin < tokens; begin += kTileTokens) {
      const std::int64_t part = std::min(kTileTokens, tokens - begin);
      float* out = y.data() + begin * rows + row_begin;
      multiply_transposed({.m = part, .n = count, .k = columns}, input.values.data() + begin * columns, columns,
                          weight.data(), columns, out, rows);
      for (std::int64_t token = 0; token < part; ++token) {
        float* row = out + token * rows;
        if (!input.token_scales.empty()) {
          const float scale = input.token_scales[static_cast<std::size_t>(begin + token)];
          std::for_each_n(row, count, [=](float& value) { value *= scale; });
        }
        output.finish({row, static_cast<std::size_t>(count)}, row_begin);
      }
    }
  });
}

}  // namespace diffulex_edge
