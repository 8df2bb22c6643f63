#include "checkpoint/stored_weight.h"

#include <optional>
#include <string>
#include <vector>

#include "checkpoint/row_decoder.h"
#include "core/mapped_file.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

std::string shape_text(const TensorView& view) { return to_string(static_shape(view.shape)); }

[[noreturn]] void fail_scales(const TensorView& scales, const TensorView& values) {
  throw Error(ErrorCode::kBadFile, scales.where(),
              "its type " + std::string(to_string(scales.dtype)) + " and shape " + shape_text(scales) +
                  " do not fit the weight of shape " + shape_text(values));
}

// Scales as the format's row of the table has them: float32 for each channel, or bfloat16 for groups.
void describe_quantized(StoredWeight& weight, const FormatRow& row) {
  const TensorView& scales = *weight.scales;
  weight.columns = weight.columns * 8 / row.bits();
  if (scales.dtype == DType::kF32 && scales.shape == std::vector{weight.rows}) {
    weight.format = row.format(0);
    return;
  }
  const bool shaped = row.takes_groups && scales.dtype == DType::kBF16 && scales.shape.size() == 2 &&
                      scales.shape[0] == weight.rows && scales.shape[1] > 0 && weight.columns % scales.shape[1] == 0;
  const std::int64_t group_size = shaped ? weight.columns / scales.shape[1] : 0;
  if (!is_group_size(group_size)) {
    fail_scales(scales, *weight.values);
  }
  weight.format = row.format(group_size);
}

std::optional<ElementType> float_element(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return ElementType::kF32;
    case DType::kF16:
      return ElementType::kF16;
    case DType::kBF16:
      return ElementType::kBF16;
    default:
      return std::nullopt;
  }
}

}  // namespace

std::span<const std::byte> StoredWeight::value_rows(std::int64_t row_begin, std::int64_t count) const {
  const std::size_t row_bytes = values->bytes.size() / static_cast<std::size_t>(rows);
  return values->bytes.subspan(static_cast<std::size_t>(row_begin) * row_bytes,
                               static_cast<std::size_t>(count) * row_bytes);
}

void StoredWeight::will_need(std::int64_t row_begin, std::int64_t count) const {
  if (values->decoder != nullptr) {
    values->decoder->will_need(row_begin, count);
  } else {
    MappedFile::will_need(value_rows(row_begin, count));
  }
}

void StoredWeight::release(std::int64_t row_begin, std::int64_t count) const {
  if (values->decoder != nullptr) {
    values->decoder->release(row_begin, count);
  } else {
    MappedFile::release(value_rows(row_begin, count));
  }
}

void StoredWeight::check() const {
  if (values->decoder != nullptr) {
    values->decoder->check();
  }
  for (const TensorView* view : {values, scales}) {
    if (view != nullptr && view->file != nullptr) {
      view->file->check();
    }
  }
}

std::int64_t StoredWeight::row_bytes() const { return static_cast<std::int64_t>(values->bytes.size()) / rows; }

std::int64_t StoredWeight::source_bytes() const {
  if (values->decoder != nullptr) {
    return values->decoder->source_bytes();
  }
  return static_cast<std::int64_t>(values->bytes.size() + (scales != nullptr ? scales->bytes.size() : 0));
}

StoredWeight find_stored_weight(const Checkpoint& checkpoint, std::string_view name) {
  const TensorView& values = checkpoint.at(name);
  if (values.shape.empty() || values.shape.size() > 2 || values.bytes.empty()) {
    throw Error(ErrorCode::kBadFile, values.where(),
                "has the shape " + shape_text(values) + "; a weight has one or two dimensions and is not empty");
  }
  StoredWeight weight{.values = &values};
  weight.rows = values.shape.size() == 2 ? values.shape[0] : 1;
  weight.columns = values.shape.back();
  if (const auto element = float_element(values.dtype)) {
    weight.format = float_format(*element);
    return weight;
  }
  const FormatRow* const row = find_checkpoint_format(values.dtype);
  weight.scales = row != nullptr ? checkpoint.find(std::string(name) + "_scale") : nullptr;
  if (weight.scales == nullptr || values.shape.size() != 2) {
    std::string what = "is of type " + std::string(to_string(values.dtype));
    if (weight.scales != nullptr) {
      what += " and has one dimension; quantized weights have two";
    } else if (row != nullptr) {
      what += " but has no '" + std::string(name) + "_scale'";
    }
    throw Error(ErrorCode::kBadFile, values.where(), what,
                "weights are F32, F16 or BF16, or written by `diffulex-edge quantize`");
  }
  describe_quantized(weight, *row);
  return weight;
}

}  // namespace diffulex_edge
