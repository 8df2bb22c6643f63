#include "diffulex_edge/weight_format.h"

#include "diffulex_edge/error.h"

namespace diffulex_edge {

std::int64_t WeightFormat::row_bytes(std::int64_t columns) const {
  switch (element) {
    case ElementType::kF32:
    case ElementType::kI32:
      return 4 * columns;
    case ElementType::kF16:
    case ElementType::kBF16:
      return 2 * columns;
    case ElementType::kI8:
      return columns;
    case ElementType::kI4:
      return (columns + 1) / 2;
  }
  throw Error(ErrorCode::kInternal, {}, "unknown element type");
}

std::int64_t WeightFormat::scales_per_row(std::int64_t columns) const {
  switch (granularity) {
    case Granularity::kNone:
    case Granularity::kTensor:
      return 0;
    case Granularity::kChannel:
      return 1;
    case Granularity::kGroup:
      return columns / group_size;
  }
  throw Error(ErrorCode::kInternal, {}, "unknown granularity");
}

std::int64_t WeightFormat::scale_bytes() const { return scale_type == ElementType::kF32 ? 4 : 2; }

std::string to_string(ElementType element) {
  switch (element) {
    case ElementType::kF32:
      return "f32";
    case ElementType::kF16:
      return "f16";
    case ElementType::kBF16:
      return "bf16";
    case ElementType::kI8:
      return "i8";
    case ElementType::kI4:
      return "i4";
    case ElementType::kI32:
      return "i32";
  }
  throw Error(ErrorCode::kInternal, {}, "unknown element type");
}

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
  }
  return text + ", " + to_string(format.scale_type) + " scales";
}

WeightFormat float_format(ElementType element) { return {.element = element}; }

WeightFormat int8_per_channel() { return {.element = ElementType::kI8, .granularity = Granularity::kChannel}; }

WeightFormat int4_groups(std::int64_t group_size, ElementType scale_type) {
  return {.element = ElementType::kI4,
          .granularity = Granularity::kGroup,
          .group_size = group_size,
          .scale_type = scale_type};
}

WeightFormat int4_per_channel() { return {.element = ElementType::kI4, .granularity = Granularity::kChannel}; }

}  // namespace diffulex_edge
