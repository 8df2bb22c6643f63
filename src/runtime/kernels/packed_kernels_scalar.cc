// The definition of the packed kernels, and what runs where there is no other.
#include <array>
#include <cmath>

#include "quant/kernels/kernels.h"
#include "runtime/kernels/packed_kernels.h"

namespace diffulex_edge::kernels::scalar {
namespace {

template <typename Element>
using Panel = std::array<Element, kPanelRows>;

// The integers of one column, or its floats where the element is kF16.
Panel<std::int32_t> integers_of(const PackedPanels& weights, std::size_t panel, std::size_t column) {
  const std::size_t width = step_columns(weights.element);
  const std::uint8_t* step =
      weights.values + panel * weights.panel_bytes() + column / width * step_bytes(weights.element);
  const std::size_t at = column % width;
  Panel<std::int32_t> q;
  for (std::size_t row = 0; row < kPanelRows; ++row) {
    const std::uint8_t byte = step[4 * row + at % 4];
    if (weights.element == PackedElement::kI8) {
      q[row] = byte - 128;
    } else {
      q[row] = (at < 4 ? byte & 0x0F : byte >> 4) - 8;
    }
  }
  return q;
}

Panel<float> floats_of(const PackedPanels& weights, std::size_t panel, std::size_t column) {
  Panel<float> floats;
  if (weights.element == PackedElement::kF16) {
    const auto* halves = reinterpret_cast<const std::uint16_t*>(weights.values + panel * weights.panel_bytes());
    for (std::size_t row = 0; row < kPanelRows; ++row) {
      floats[row] = f16_to_f32_one(halves[column * kPanelRows + row]);
    }
    return floats;
  }
  const Panel<std::int32_t> q = integers_of(weights, panel, column);
  for (std::size_t row = 0; row < kPanelRows; ++row) {
    floats[row] = static_cast<float>(q[row]);
  }
  return floats;
}

float group_scale(const PackedPanels& weights, std::size_t panel, std::size_t group, std::size_t row) {
  return bf16_to_f32_one(weights.group_scales[(panel * weights.groups() + group) * kPanelRows + row]);
}

void multiply_panel(const PackedPanels& weights, std::size_t panel, const IntegerTokens& x, std::size_t token,
                    float* out) {
  const bool grouped = weights.group_scales != nullptr;
  const std::int8_t* values = x.values + token * weights.columns;
  const std::int32_t zero_point = x.zero_points[token];
  Panel<float> sums = {};
  for (std::size_t row = 0; grouped && row < kPanelRows; ++row) {
    sums[row] = static_cast<float>(-zero_point) * weights.row_totals[panel * kPanelRows + row];
  }
  for (std::size_t group = 0; group < weights.groups(); ++group) {
    Panel<std::int32_t> dots = {};
    for (std::size_t i = 0; i < weights.group_columns; ++i) {
      const std::size_t column = group * weights.group_columns + i;
      const Panel<std::int32_t> q = integers_of(weights, panel, column);
      // Columns that were added have q = 0: whatever is there adds nothing.
      const std::int32_t value = grouped ? values[column] : values[column] - zero_point;
      for (std::size_t row = 0; row < kPanelRows; ++row) {
        dots[row] += q[row] * value;
      }
    }
    for (std::size_t row = 0; row < kPanelRows; ++row) {
      const auto dot = static_cast<float>(dots[row]);
      sums[row] = grouped ? std::fma(dot, group_scale(weights, panel, group, row), sums[row])
                          : dot * weights.row_scales[panel * kPanelRows + row];
    }
  }
  for (std::size_t row = 0; row < kPanelRows; ++row) {
    out[row] = sums[row] * x.scales[token];
  }
}

void multiply_panel(const PackedPanels& weights, std::size_t panel, const FloatTokens& x, std::size_t token,
                    float* out) {
  const float* values = x.values + token * weights.columns;
  Panel<float> totals = {};
  for (std::size_t group = 0; group < weights.groups(); ++group) {
    Panel<float> sums = {};
    for (std::size_t i = 0; i < weights.group_columns; ++i) {
      const std::size_t column = group * weights.group_columns + i;
      const Panel<float> w = floats_of(weights, panel, column);
      for (std::size_t row = 0; row < kPanelRows; ++row) {
        sums[row] = std::fma(values[column], w[row], sums[row]);
      }
    }
    for (std::size_t row = 0; row < kPanelRows; ++row) {
      if (weights.group_scales != nullptr) {
        totals[row] = std::fma(sums[row], group_scale(weights, panel, group, row), totals[row]);
      } else {
        totals[row] =
            weights.row_scales == nullptr ? sums[row] : sums[row] * weights.row_scales[panel * kPanelRows + row];
      }
    }
  }
  for (std::size_t row = 0; row < kPanelRows; ++row) {
    out[row] = totals[row];
  }
}

template <typename Tokens>
void multiply(const PackedPanels& weights, const Tokens& x, float* out, std::size_t stride) {
  for (std::size_t token = 0; token < x.tokens; ++token) {
    for (std::size_t panel = 0; panel < weights.panels; ++panel) {
      multiply_panel(weights, panel, x, token, out + token * stride + panel * kPanelRows);
    }
  }
}

}  // namespace

void multiply_integers(const PackedPanels& weights, const IntegerTokens& x, float* out, std::size_t stride) {
  multiply(weights, x, out, stride);
}
void multiply_floats(const PackedPanels& weights, const FloatTokens& x, float* out, std::size_t stride) {
  multiply(weights, x, out, stride);
}

}  // namespace diffulex_edge::kernels::scalar
