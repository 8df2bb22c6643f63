#include "diffulex_edge/weight_format.h"

#include <algorithm>
#include <array>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr ElementTraits palette_element(ElementType element, std::string_view name, int bits) {
  return {.element = element, .name = name, .kind = ElementKind::kCodebook, .bits = bits};
}

constexpr std::array kElements = {
    ElementTraits{.element = ElementType::kF32, .name = "f32", .kind = ElementKind::kFloat, .bits = 32},
    ElementTraits{.element = ElementType::kF16, .name = "f16", .kind = ElementKind::kFloat, .bits = 16},
    ElementTraits{.element = ElementType::kBF16, .name = "bf16", .kind = ElementKind::kFloat, .bits = 16},
    ElementTraits{.element = ElementType::kI32, .name = "i32", .kind = ElementKind::kInteger, .bits = 32},
    ElementTraits{
        .element = ElementType::kI8, .name = "i8", .kind = ElementKind::kGrid, .bits = 8, .low = -128, .high = 127},
    ElementTraits{.element = ElementType::kI4,
                  .name = "i4",
                  .kind = ElementKind::kGrid,
                  .bits = 4,
                  .low = -8,
                  .high = 7,
                  .offset = 8},
    palette_element(ElementType::kPalette8, "palette8", 8),
    palette_element(ElementType::kPalette6, "palette6", 6),
    palette_element(ElementType::kPalette4, "palette4", 4),
    palette_element(ElementType::kPalette3, "palette3", 3),
    palette_element(ElementType::kPalette2, "palette2", 2),
    palette_element(ElementType::kPalette1, "palette1", 1),
};

// Its tables are fitted by an export: no checkpoint holds it.
constexpr FormatRow palette_row(QuantizationDtype dtype, std::string_view name, std::string_view title,
                                ElementType element) {
  return {.dtype = dtype, .name = name, .title = title, .element = element};
}

constexpr std::array kFormats = {
    FormatRow{.dtype = QuantizationDtype::FP32,
              .name = "fp32",
              .title = "FP32",
              .element = ElementType::kF32,
              .checkpoint_dtype = DType::kF32},
    FormatRow{.dtype = QuantizationDtype::FP16,
              .name = "fp16",
              .title = "FP16",
              .element = ElementType::kF16,
              .checkpoint_dtype = DType::kF16},
    FormatRow{.dtype = QuantizationDtype::INT8,
              .name = "int8",
              .title = "INT8",
              .element = ElementType::kI8,
              .checkpoint_dtype = DType::kI8},
    palette_row(QuantizationDtype::PALETTE8, "palette8", "PALETTE8", ElementType::kPalette8),
    palette_row(QuantizationDtype::PALETTE6, "palette6", "PALETTE6", ElementType::kPalette6),
    FormatRow{.dtype = QuantizationDtype::INT4,
              .name = "int4",
              .title = "INT4",
              .element = ElementType::kI4,
              .takes_groups = true,
              .checkpoint_dtype = DType::kU8},
    palette_row(QuantizationDtype::PALETTE4, "palette4", "PALETTE4", ElementType::kPalette4),
    palette_row(QuantizationDtype::PALETTE3, "palette3", "PALETTE3", ElementType::kPalette3),
    palette_row(QuantizationDtype::PALETTE2, "palette2", "PALETTE2", ElementType::kPalette2),
    palette_row(QuantizationDtype::PALETTE1, "palette1", "PALETTE1", ElementType::kPalette1),
};

constexpr std::array<std::int64_t, 4> kGroupSizes = {256, 128, 64, 32};

}  // namespace

const ElementTraits& traits(ElementType element) {
  const auto* const found = std::ranges::find(kElements, element, &ElementTraits::element);
  if (found == kElements.end()) {
    throw Error(ErrorCode::kInternal, {}, "unknown element type");
  }
  return *found;
}

std::span<const FormatRow> all_formats() { return kFormats; }

std::span<const std::int64_t> group_sizes() { return kGroupSizes; }

bool is_group_size(std::int64_t size) { return std::ranges::find(kGroupSizes, size) != kGroupSizes.end(); }

const FormatRow& format_row(QuantizationDtype dtype) {
  const auto* const found = std::ranges::find(kFormats, dtype, &FormatRow::dtype);
  if (found == kFormats.end()) {
    throw Error(ErrorCode::kInternal, "dtype", "unknown");
  }
  return *found;
}

const FormatRow& format_row(ElementType element) {
  const auto* const found = std::ranges::find(kFormats, element, &FormatRow::element);
  if (found == kFormats.end()) {
    throw Error(ErrorCode::kInternal, to_string(element), "is the element of no format");
  }
  return *found;
}

const FormatRow* find_checkpoint_format(DType values) {
  const auto* const found = std::ranges::find_if(
      kFormats, [=](const FormatRow& row) { return row.is_quantized() && row.checkpoint_dtype == values; });
  return found == kFormats.end() ? nullptr : found;
}

WeightFormat FormatRow::format(std::int64_t group) const {
  if (has_codebook()) {
    return {.element = element,
            .granularity = group == 0 ? Granularity::kTensor : Granularity::kRows,
            .group_size = group,
            .scale_type = ElementType::kF16};
  }
  if (!is_grid()) {
    return float_format(element);
  }
  if (takes_groups && group != 0) {
    return {
        .element = element, .granularity = Granularity::kGroup, .group_size = group, .scale_type = ElementType::kBF16};
  }
  return {.element = element, .granularity = Granularity::kChannel};
}

std::int64_t WeightFormat::row_bytes(std::int64_t columns) const { return (columns * bits() + 7) / 8; }

std::int64_t WeightFormat::scales_per_row(std::int64_t columns) const {
  switch (granularity) {
    case Granularity::kNone:
    case Granularity::kTensor:
    case Granularity::kRows:
      return 0;
    case Granularity::kChannel:
      return 1;
    case Granularity::kGroup:
      return columns / group_size;
  }
  throw Error(ErrorCode::kInternal, {}, "unknown granularity");
}

std::int64_t WeightFormat::scale_bytes() const { return scale_type == ElementType::kF32 ? 4 : 2; }

std::int64_t WeightFormat::tables(std::int64_t rows) const {
  if (!has_codebook()) {
    return 0;
  }
  return granularity == Granularity::kRows ? rows / group_size : 1;
}

std::int64_t WeightFormat::table_size() const { return has_codebook() ? std::int64_t{1} << bits() : 0; }

std::string to_string(ElementType element) { return std::string(traits(element).name); }

std::string to_string(const WeightFormat& format) {
  std::string text = to_string(format.element);
  switch (format.granularity) {
    case Granularity::kNone:
      return text;
    case Granularity::kTensor:
      text += " per tensor";
      break;
    case Granularity::kChannel:
      text += " per channel";
      break;
    case Granularity::kGroup:
      text += " groups of " + std::to_string(format.group_size);
      break;
    case Granularity::kRows:
      text += " per " + std::to_string(format.group_size) + " rows";
      break;
  }
  return text + ", " + to_string(format.scale_type) + (format.has_codebook() ? " values" : " scales");
}

WeightFormat float_format(ElementType element) { return {.element = element}; }

}  // namespace diffulex_edge
