// How a weight is stored: the table of formats, and one description of a weight that checkpoints, quantizers and
// backends share. A new format is a row of both tables (src/core/weight_format.cc) and its kernels.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "diffulex_edge/dtype.h"

namespace diffulex_edge {

// kI32 is only for the bias of a layer with static activations. kPaletteN: indices of N bits into a table of values.
enum class ElementType {
  kF32,
  kF16,
  kBF16,
  kI8,
  kI4,
  kI32,
  kPalette8,
  kPalette6,
  kPalette4,
  kPalette3,
  kPalette2,
  kPalette1
};

// What a stored element stands for: itself; an integer of a grid, times a scale; or an index into a table of values.
enum class ElementKind { kFloat, kGrid, kCodebook, kInteger };

struct ElementTraits {
  ElementType element = ElementType::kF32;
  std::string_view name;  // "f32", "i4", "palette4"
  ElementKind kind = ElementKind::kFloat;
  int bits = 32;
  // Of a grid: the integers, and what is added to one so that it is stored without a sign (0: two's complement).
  int low = 0;
  int high = 0;
  int offset = 0;
};
const ElementTraits& traits(ElementType element);

// What shares one scale or table: nothing has one; a whole tensor; a row (output channel); `group_size` neighbours
// along the input of a row; or `group_size` neighbouring rows.
enum class Granularity { kNone, kTensor, kChannel, kGroup, kRows };

// Which nibble of a byte holds the element with the even index.
enum class NibbleOrder { kLowFirst, kHighFirst };

// A matrix weight is [rows = out_features, columns = in_features], row-major. Elements of a grid are
// q = clamp(round(w / scale), low, high) and stand for q * scale; zero points other than 0 exist where `symmetric` is
// false. Elements of less than 8 bits follow one another from a byte's low bits to its high ones, each row in whole
// bytes.
struct WeightFormat {
  ElementType element = ElementType::kF32;
  bool symmetric = true;
  Granularity granularity = Granularity::kNone;
  std::int64_t group_size = 0;                 // kGroup: 32, 64, 128 or 256; kRows: any
  ElementType scale_type = ElementType::kF32;  // of scales kF32 or kBF16, of tables kF32 or kF16
  NibbleOrder nibble_order = NibbleOrder::kLowFirst;

  bool is_grid() const { return traits(element).kind == ElementKind::kGrid; }
  bool has_codebook() const { return traits(element).kind == ElementKind::kCodebook; }
  bool is_quantized() const { return is_grid() || has_codebook(); }
  int bits() const { return traits(element).bits; }  // of an element
  // Whether a row of so many elements ends with a byte.
  bool fills_bytes(std::int64_t columns) const { return columns * bits() % 8 == 0; }
  // Bytes of one row's values, and the number of scales of one row (0 where it has none of its own).
  std::int64_t row_bytes(std::int64_t columns) const;
  std::int64_t scales_per_row(std::int64_t columns) const;
  std::int64_t scale_bytes() const;  // of one scale or value of a table
  // Tables of a weight, the values of one, and the bytes of all; 0 for other formats.
  std::int64_t tables(std::int64_t rows) const;
  std::int64_t table_size() const;
  std::int64_t table_bytes(std::int64_t rows) const { return tables(rows) * table_size() * scale_bytes(); }

  friend bool operator==(const WeightFormat&, const WeightFormat&) = default;
};

// "f32", "i8 per channel, f32 scales", "i4 groups of 32, bf16 scales", "palette4 per 16 rows, f16 values"
std::string to_string(const WeightFormat& format);
std::string to_string(ElementType element);

WeightFormat float_format(ElementType element);

// The formats that users, plans and checkpoints name.
enum class QuantizationDtype { FP32, FP16, INT8, INT4, PALETTE8, PALETTE6, PALETTE4, PALETTE3, PALETTE2, PALETTE1 };

// One row of the table of formats.
struct FormatRow {
  QuantizationDtype dtype = QuantizationDtype::FP32;
  std::string_view name;   // "int4": in commands, plans, config.json and reports
  std::string_view title;  // "INT4", "PALETTE4": in sentences
  ElementType element = ElementType::kF32;
  // Scales for groups along the input (in bfloat16), or with group size 0 for each channel.
  bool takes_groups = false;
  // The type of its values in a quantized checkpoint; none: a checkpoint can't hold it.
  std::optional<DType> checkpoint_dtype;

  bool is_grid() const { return traits(element).kind == ElementKind::kGrid; }
  bool has_codebook() const { return traits(element).kind == ElementKind::kCodebook; }
  bool is_quantized() const { return is_grid() || has_codebook(); }
  int bits() const { return traits(element).bits; }
  // `group` is the size of a group along the input, or of rows that share a table; formats without groups ignore it.
  WeightFormat format(std::int64_t group) const;
};

// Every format, from the finest to the coarsest.
std::span<const FormatRow> all_formats();
const FormatRow& format_row(QuantizationDtype dtype);
// The row of an element that some format has.
const FormatRow& format_row(ElementType element);
// The quantized format with values of that type in a checkpoint; nullptr if there is none.
const FormatRow* find_checkpoint_format(DType values);

// Sizes of groups along the input, from the largest.
std::span<const std::int64_t> group_sizes();
bool is_group_size(std::int64_t size);

}  // namespace diffulex_edge
