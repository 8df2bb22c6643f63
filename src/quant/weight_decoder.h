// What stored weights stand for: the inverse of weight_encoder, up to rounding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "checkpoint/stored_weight.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/weight_format.h"

namespace diffulex_edge {

// Decodes `rows` rows in `format`, any but those with tables (decode_indices), to float32: q * scale for quantized
// formats, exactly (products of at most 8 and 24 significant bits are rounded to float32). `values` and `scales` are
// laid out as encode_rows writes them and aligned to their elements; `target` has rows * columns floats.
void decode_rows(const WeightFormat& format, std::span<const std::byte> values, std::span<const std::byte> scales,
                 std::int64_t rows, std::int64_t columns, std::span<float> target);

// The same for rows [row_begin, row_begin + rows) of a weight in its file, in any alignment. Errors: kBadFile for
// what check_values and check_scales refuse.
void load_rows(const StoredWeight& source, std::int64_t row_begin, std::int64_t rows, std::span<float> target);

// Scales of `type`, kF32 or kBF16, as float32.
std::vector<float> load_scales(std::span<const std::byte> scales, ElementType type);

// A whole tensor, such as a norm's or a bias, as float32. Errors: kBadFile as find_stored_weight and load_rows.
std::vector<float> load_tensor(const Checkpoint& checkpoint, std::string_view name);

}  // namespace diffulex_edge
