#include "runtime/packed_multiply.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/linear_algebra.h"
#include "core/parallel.h"
#include "quant/affine_scale.h"
#include "runtime/kernels/activation_kernels.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kPanelsAtOnce = 4;    // whose bytes stay in a core's cache while tokens go by
constexpr std::int64_t kTokensAtOnce = 256;  // of one tile
constexpr std::int64_t kFloatRows = 256;     // of one tile in FP32
constexpr std::size_t kMostKeptBytes = std::size_t{4} << 20U;
// Multiplications below this take less time than waking threads.
constexpr std::int64_t kWorkForThreads = std::int64_t{1} << 18U;

std::int64_t tiles(std::int64_t count, std::int64_t at_once) { return (count + at_once - 1) / at_once; }

RunControl threads_for(const RunControl& control, std::int64_t work) {
  RunControl limited = control;
  if (work < kWorkForThreads) {
    limited.threads = 1;
  }
  return limited;
}

// Makes room for `count` elements, with what earlier calls left there.
template <typename T>
void make_room(std::vector<T>& buffer, std::size_t count) {
  if (buffer.size() < count) {
    buffer.resize(count);
  }
}

// A tile of results, kept for the thread's next one.
std::vector<float>& tile_of_thread() {
  static thread_local std::vector<float> tile(static_cast<std::size_t>(kTokensAtOnce * kPanelsAtOnce) *
                                              kernels::kPanelRows);
  return tile;
}

}  // namespace

std::size_t PackedInput::Buffers::bytes() const {
  return padded.size() * sizeof(float) + integers.size() + offsets.size() * sizeof(std::int32_t) +
         zero_points.size() * sizeof(std::int32_t) + scales.size() * sizeof(float);
}

PackedInput::Buffers& PackedInput::kept_buffers() {
  static thread_local Buffers buffers;
  return buffers;
}

PackedInput::~PackedInput() {
  if (buffers_.bytes() <= kMostKeptBytes) {
    kept_buffers() = std::move(buffers_);
  }
}

PackedInput::PackedInput(const PackedWeight& weight, std::span<const float> x, std::int64_t tokens,
                         InputArithmetic arithmetic, const LayerPlan* plan, const RunControl& control)
    : arithmetic_(arithmetic),
      columns_(static_cast<std::size_t>(weight.columns())),
      padded_columns_(static_cast<std::size_t>(weight.padded_columns())),
      group_columns_(weight.panels(0, 1).group_columns),
      floats_(x.data()),
      buffers_(std::exchange(kept_buffers(), {})) {
  const auto count = static_cast<std::size_t>(tokens);
  if (arithmetic == InputArithmetic::kFloat) {
    if (columns_ != padded_columns_) {
      make_room(buffers_.padded, count * padded_columns_);
      for (std::size_t token = 0; token < count; ++token) {
        float* target = buffers_.padded.data() + token * padded_columns_;
        std::copy_n(x.data() + token * columns_, columns_, target);
        std::fill(target + columns_, target + padded_columns_, 0.0F);
      }
      floats_ = buffers_.padded.data();
    }
    return;
  }
  make_room(buffers_.integers, count * padded_columns_);
  make_room(buffers_.offsets, count * (padded_columns_ / group_columns_));
  make_room(buffers_.zero_points, count);
  make_room(buffers_.scales, count);
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
  std::int8_t* target = buffers_.integers.data() + token * padded_columns_;
  std::fill(target + columns_, target + padded_columns_, std::int8_t{0});
  if (arithmetic_ == InputArithmetic::kStaticInt8 && plan != nullptr && plan->activations) {
    const AffineScale affine = affine_scale(plan->activations->input, 8);
    kernels::quantize_row_static_i8(source, target, columns_, affine.scale, affine.zero_point);
    buffers_.scales[token] = affine.scale;
    buffers_.zero_points[token] = affine.zero_point;
  } else {
    const kernels::DynamicScale dynamic = kernels::quantize_row_dynamic_i8(source, target, columns_);
    buffers_.scales[token] = dynamic.scale;
    buffers_.zero_points[token] = dynamic.zero_point;
  }
  const std::size_t groups = padded_columns_ / group_columns_;
  for (std::size_t group = 0; group < groups; ++group) {
    const std::int8_t* begin = target + group * group_columns_;
    buffers_.offsets[token * groups + group] = -8 * std::accumulate(begin, begin + group_columns_, std::int32_t{0});
  }
}

void PackedInput::multiply(const kernels::PackedPanels& panels, std::int64_t begin, std::int64_t count, float* out,
                           std::int64_t stride) const {
  const kernels::PackedKernels& best = kernels::supported_packed_kernels().front();
  const auto first = static_cast<std::size_t>(begin);
  const auto tokens = static_cast<std::size_t>(count);
  if (arithmetic_ == InputArithmetic::kFloat) {
    best.multiply_floats(panels, {.tokens = tokens, .values = floats_ + first * padded_columns_}, out,
                         static_cast<std::size_t>(stride));
    return;
  }
  best.multiply_integers(panels,
                         {.tokens = tokens,
                          .values = buffers_.integers.data() + first * padded_columns_,
                          .offsets = buffers_.offsets.data() + first * panels.groups(),
                          .zero_points = buffers_.zero_points.data() + first,
                          .scales = buffers_.scales.data() + first},
                         out, static_cast<std::size_t>(stride));
}

void multiply_packed(const PackedWeight& weight, const PackedInput& input, std::span<float> y, std::int64_t tokens,
                     const OutputArithmetic& output, const RunControl& control) {
  const std::int64_t token_tiles = tiles(tokens, kTokensAtOnce);
  const std::int64_t panel_tiles = tiles(weight.panel_count(), kPanelsAtOnce);
  const RunControl limited = threads_for(control, tokens * weight.rows() * weight.columns());
  parallel_for(static_cast<std::size_t>(panel_tiles * token_tiles), limited, [&](std::size_t tile, std::size_t) {
    const std::int64_t panel = static_cast<std::int64_t>(tile) / token_tiles * kPanelsAtOnce;
    const std::int64_t begin = static_cast<std::int64_t>(tile) % token_tiles * kTokensAtOnce;
    const std::int64_t panels = std::min(kPanelsAtOnce, weight.panel_count() - panel);
    const std::int64_t count = std::min(kTokensAtOnce, tokens - begin);
    const auto width = panels * static_cast<std::int64_t>(kernels::kPanelRows);
    const std::int64_t row_begin = panel * static_cast<std::int64_t>(kernels::kPanelRows);
    const std::int64_t rows = std::min(width, weight.rows() - row_begin);
    float* target = y.data() + begin * weight.rows() + row_begin;
    if (rows == width) {
      input.multiply(weight.panels(panel, panels), begin, count, target, weight.rows());
    } else {  // the last panel is filled up
      std::vector<float>& out = tile_of_thread();
      input.multiply(weight.panels(panel, panels), begin, count, out.data(), width);
      for (std::int64_t token = 0; token < count; ++token) {
        std::copy_n(out.data() + token * width, rows, target + token * weight.rows());
      }
    }
    for (std::int64_t token = 0; token < count; ++token) {
      output.finish({target + token * weight.rows(), static_cast<std::size_t>(rows)}, row_begin);
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
