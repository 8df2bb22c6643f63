#include "runtime/packed_multiply.h"

#include <algorithm>
#include <numeric>

#include "core/linear_algebra.h"
#include "core/parallel.h"
#include "quant/affine_scale.h"
#include "runtime/kernels/activation_kernels.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kPanelsAtOnce = 4;    // whose bytes stay in a core's cache while tokens go by
constexpr std::int64_t kTokensAtOnce = 256;  // of one tile
constexpr std::int64_t kFloatRows = 256;     // of one tile in FP32
// Multiplications below this take less time than starting threads.
constexpr std::int64_t kWorkForThreads = std::int64_t{1} << 22U;

std::int64_t tiles(std::int64_t count, std::int64_t at_once) { return (count + at_once - 1) / at_once; }

RunControl threads_for(const RunControl& control, std::int64_t work) {
  RunControl limited = control;
  if (work < kWorkForThreads) {
    limited.threads = 1;
  }
  return limited;
}

}  // namespace

PackedInput::PackedInput(const PackedWeight& weight, std::span<const float> x, std::int64_t tokens,
                         InputArithmetic arithmetic, const LayerPlan* plan, const RunControl& control)
    : arithmetic_(arithmetic),
      columns_(static_cast<std::size_t>(weight.columns())),
      padded_columns_(static_cast<std::size_t>(weight.padded_columns())),
      group_columns_(weight.panels(0, 1).group_columns),
      floats_(x.data()) {
  const auto count = static_cast<std::size_t>(tokens);
  if (arithmetic == InputArithmetic::kFloat) {
    if (columns_ != padded_columns_) {
      padded_.resize(count * padded_columns_);
      for (std::size_t token = 0; token < count; ++token) {
        std::copy_n(x.data() + token * columns_, columns_, padded_.data() + token * padded_columns_);
      }
      floats_ = padded_.data();
    }
    return;
  }
  integers_.resize(count * padded_columns_);
  sums_.resize(count * (padded_columns_ / group_columns_));
  zero_points_.resize(count);
  scales_.resize(count);
  constexpr std::int64_t kRows = 64;
  const RunControl limited = threads_for(control, tokens * weight.columns());
  parallel_for(static_cast<std::size_t>(tiles(tokens, kRows)), limited, [&](std::size_t tile, std::size_t) {
    const std::size_t end = std::min(count, (tile + 1) * kRows);
    for (std::size_t token = tile * kRows; token < end; ++token) {
      quantize(x, plan, token);
    }
  });
}

void PackedInput::quantize(std::span<const float> x, const LayerPlan* plan, std::size_t token) {
  const float* source = x.data() + token * columns_;
  std::int8_t* target = integers_.data() + token * padded_columns_;
  if (arithmetic_ == InputArithmetic::kStaticInt8 && plan != nullptr && plan->activations) {
    const AffineScale affine = affine_scale(plan->activations->input, 8);
    kernels::quantize_row_static_i8(source, target, columns_, affine.scale, affine.zero_point);
    scales_[token] = affine.scale;
    zero_points_[token] = affine.zero_point;
  } else {
    const kernels::DynamicScale dynamic = kernels::quantize_row_dynamic_i8(source, target, columns_);
    scales_[token] = dynamic.scale;
    zero_points_[token] = dynamic.zero_point;
  }
  const std::size_t groups = padded_columns_ / group_columns_;
  for (std::size_t group = 0; group < groups; ++group) {
    const std::int8_t* begin = target + group * group_columns_;
    sums_[token * groups + group] = std::accumulate(begin, begin + group_columns_, std::int32_t{0});
  }
}

void PackedInput::multiply(const kernels::PackedPanels& panels, std::int64_t begin, std::int64_t count,
                           float* out) const {
  const kernels::PackedKernels& best = kernels::supported_packed_kernels().front();
  const auto first = static_cast<std::size_t>(begin);
  const auto tokens = static_cast<std::size_t>(count);
  if (arithmetic_ == InputArithmetic::kFloat) {
    best.multiply_floats(panels, {.tokens = tokens, .values = floats_ + first * padded_columns_}, out);
    return;
  }
  best.multiply_integers(panels,
                         {.tokens = tokens,
                          .values = integers_.data() + first * padded_columns_,
                          .sums = sums_.data() + first * panels.groups(),
                          .zero_points = zero_points_.data() + first,
                          .scales = scales_.data() + first},
                         out);
}

void multiply_packed(const PackedWeight& weight, const PackedInput& input, std::span<float> y, std::int64_t tokens,
                     const OutputArithmetic& output, const RunControl& control) {
  const std::int64_t token_tiles = tiles(tokens, kTokensAtOnce);
  const std::int64_t panel_tiles = tiles(weight.panel_count(), kPanelsAtOnce);
  const RunControl limited = threads_for(control, tokens * weight.rows() * weight.columns());
  std::vector<std::vector<float>> scratch(thread_count(limited));
  parallel_for(static_cast<std::size_t>(panel_tiles * token_tiles), limited, [&](std::size_t tile, std::size_t worker) {
    const std::int64_t panel = static_cast<std::int64_t>(tile) / token_tiles * kPanelsAtOnce;
    const std::int64_t begin = static_cast<std::int64_t>(tile) % token_tiles * kTokensAtOnce;
    const std::int64_t panels = std::min(kPanelsAtOnce, weight.panel_count() - panel);
    const std::int64_t count = std::min(kTokensAtOnce, tokens - begin);
    const auto width = panels * static_cast<std::int64_t>(kernels::kPanelRows);
    std::vector<float>& out = scratch[worker];
    out.resize(static_cast<std::size_t>(kTokensAtOnce) * static_cast<std::size_t>(kPanelsAtOnce) * kernels::kPanelRows);
    input.multiply(weight.panels(panel, panels), begin, count, out.data());
    const std::int64_t row_begin = panel * static_cast<std::int64_t>(kernels::kPanelRows);
    const std::int64_t rows = std::min(width, weight.rows() - row_begin);
    for (std::int64_t token = 0; token < count; ++token) {
      float* target = y.data() + (begin + token) * weight.rows() + row_begin;
      std::copy_n(out.data() + token * width, rows, target);
      output.finish({target, static_cast<std::size_t>(rows)}, row_begin);
    }
  });
}

void multiply_float32(const PackedWeight& weight, std::span<const float> x, std::span<float> y, std::int64_t tokens,
                      const OutputArithmetic& output, const RunControl& control) {
  const std::int64_t rows = weight.rows();
  const std::int64_t columns = weight.columns();
  const std::int64_t token_tiles = tiles(tokens, kTokensAtOnce);
  const RunControl limited = threads_for(control, tokens * rows * columns);
  parallel_for(static_cast<std::size_t>(tiles(rows, kFloatRows) * token_tiles), limited,
               [&](std::size_t tile, std::size_t) {
                 const std::int64_t row_begin = static_cast<std::int64_t>(tile) / token_tiles * kFloatRows;
                 const std::int64_t begin = static_cast<std::int64_t>(tile) % token_tiles * kTokensAtOnce;
                 const std::int64_t count = std::min(kFloatRows, rows - row_begin);
                 const std::int64_t part = std::min(kTokensAtOnce, tokens - begin);
                 float* out = y.data() + begin * rows + row_begin;
                 multiply_transposed({.m = part, .n = count, .k = columns}, x.data() + begin * columns, columns,
                                     weight.floats() + row_begin * columns, columns, out, rows);
                 for (std::int64_t token = 0; token < part; ++token) {
                   output.finish({out + token * rows, static_cast<std::size_t>(count)}, row_begin);
                 }
               });
}

}  // namespace diffulex_edge
