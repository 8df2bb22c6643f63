#include "quant/weight_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "diffulex_edge/error.h"
#include "quant/kernels/kernels.h"

namespace diffulex_edge {

float check_values(const StoredWeight& source, std::int64_t row_begin, std::span<const float> rows) {
  const float largest = kernels::f32_abs_max(rows.data(), rows.size());
  if (!std::isfinite(largest)) {
    fail_at_element(
        source, row_begin, rows, [](float value) { return !std::isfinite(value); }, "is not finite",
        "the checkpoint is broken");
  }
  return largest;
}

void check_scales(const StoredWeight& source, std::int64_t first, std::span<const std::byte> scales) {
  const bool wide = source.scales->dtype == DType::kF32;
  const std::size_t size = wide ? 4 : 2;
  for (std::size_t i = 0; i < scales.size() / size; ++i) {
    float scale = 0.0F;
    if (wide) {
      std::memcpy(&scale, scales.data() + i * size, size);
    } else {
      std::uint16_t bits = 0;
      std::memcpy(&bits, scales.data() + i * size, size);
      scale = kernels::scalar::bf16_to_f32_one(bits);
    }
    if (!std::isnormal(scale) || scale < 0.0F) {
      throw Error(ErrorCode::kBadFile, source.scales->where(),
                  "scale " + std::to_string(first + static_cast<std::int64_t>(i)) + " = " + std::to_string(scale) +
                      " is not a positive, normal number",
                  "the checkpoint is broken");
    }
  }
}

void fail_at_element(const StoredWeight& source, std::int64_t row_begin, std::span<const float> rows,
                     const std::function<bool(float)>& is_wrong, const std::string& what, const std::string& advice) {
  const auto position = std::ranges::find_if(rows, is_wrong);
  const std::int64_t index = position - rows.begin();
  throw Error(ErrorCode::kBadFile, source.values->where(),
              "element [" + std::to_string(row_begin + index / source.columns) + ", " +
                  std::to_string(index % source.columns) + "] = " + std::to_string(*position) + " " + what,
              advice);
}

}  // namespace diffulex_edge
