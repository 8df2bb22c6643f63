#include "checkpoint/prequantized/packed_values.h"

#include <algorithm>

#include "core/small_floats.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {

float float_at(const TensorView& view, std::int64_t index) {
  switch (view.dtype) {
    case DType::kF32:
      return element_at<float>(view, index);
    case DType::kF16:
      return float_from_f16(element_at<std::uint16_t>(view, index));
    case DType::kBF16:
      return float_from_bf16(element_at<std::uint16_t>(view, index));
    case DType::kF8E4M3:
      return float_from_e4m3(element_at<std::uint8_t>(view, index));
    case DType::kF8E5M2:
      return float_from_e5m2(element_at<std::uint8_t>(view, index));
    case DType::kI8:
      return static_cast<float>(element_at<std::int8_t>(view, index));
    case DType::kU8:
      return static_cast<float>(element_at<std::uint8_t>(view, index));
    default:
      fail_tensor(view, "is of type " + std::string(to_string(view.dtype)) + ", which holds no values of a weight");
  }
}

bool is_float(DType dtype) { return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16; }

std::string shape_string(const TensorView& view) { return to_string(static_shape(view.shape)); }

void fail_tensor(const TensorView& view, const std::string& what) {
  throw Error(ErrorCode::kBadFile, view.where(), what);
}

const TensorView& LayerTensors::require(std::string_view name, std::initializer_list<DType> types) const {
  const TensorView& view = checkpoint_.at(prefix_ + std::string(name));
  if (std::ranges::find(types, view.dtype) == types.end()) {
    std::string wanted;
    for (const DType type : types) {
      wanted += (wanted.empty() ? "" : " or ") + std::string(to_string(type));
    }
    fail_tensor(view, "is of type " + std::string(to_string(view.dtype)) + ", not " + wanted);
  }
  return view;
}

std::vector<std::string> LayerTensors::present(std::initializer_list<std::string_view> names) const {
  std::vector<std::string> result;
  for (const std::string_view name : names) {
    if (const TensorView* view = find(name)) {
      result.push_back(view->name);
    }
  }
  return result;
}

GroupedTensors::GroupedTensors(const LayerTensors& layer)
    : qweight(layer.require(".qweight", {DType::kI32})),
      qzeros(layer.require(".qzeros", {DType::kI32})),
      scales(layer.require(".scales", {DType::kF16, DType::kBF16, DType::kF32})) {}

std::vector<RowDecoder::Part> GroupedTensors::parts(RowLayout integers, RowLayout groups) const {
  return {
      {.view = qweight, .layout = integers}, {.view = qzeros, .layout = groups}, {.view = scales, .layout = groups}};
}

std::vector<std::string> prefixes_of(const Checkpoint& checkpoint, std::string_view ending) {
  std::vector<std::string> prefixes;
  for (const auto& [name, view] : checkpoint.tensors()) {
    if (name.ends_with(ending)) {
      prefixes.push_back(name.substr(0, name.size() - ending.size()));
    }
  }
  return prefixes;
}

void require_shape(const TensorView& view, const std::vector<std::int64_t>& shape) {
  if (view.shape != shape) {
    fail_tensor(view, "has the shape " + shape_string(view) + "; with the other tensors of its weight it would be " +
                          to_string(static_shape(shape)));
  }
}

}  // namespace diffulex_edge
