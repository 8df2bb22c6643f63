#include "tensors.h"

#include <optional>
#include <utility>

#include "diffulex_edge/dtype.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge::python {

std::shared_ptr<const Checkpoint> checkpoint_of(const std::vector<TensorTuple>& tensors) {
  std::vector<TensorView> views;
  views.reserve(tensors.size());
  for (const auto& [name, dtype_name, shape, address, bytes] : tensors) {
    const std::optional<DType> dtype = dtype_from_string(dtype_name);
    if (!dtype) {
      throw Error(ErrorCode::kInvalidArgument, name, "'" + dtype_name + "' is no dtype of safetensors");
    }
    views.push_back({.name = name, .dtype = *dtype, .shape = shape, .bytes = {pointer(address), bytes}});
  }
  return std::make_shared<const Checkpoint>(std::move(views));
}

}  // namespace diffulex_edge::python
