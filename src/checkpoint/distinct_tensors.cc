#include "checkpoint/distinct_tensors.h"

#include "checkpoint/row_decoder.h"
#include "checkpoint/same_bytes.h"

namespace diffulex_edge {

const std::string& DistinctTensors::content_of(const std::string& tensor) {
  const auto known = content_.find(tensor);
  if (known != content_.end()) {
    return known->second;
  }
  const TensorView& view = checkpoint_.at(tensor);
  const auto equals = [&](const std::string& other_name) {
    const TensorView& other = checkpoint_.at(other_name);
    if (other.dtype != view.dtype || other.shape != view.shape ||
        (other.decoder == nullptr) != (view.decoder == nullptr)) {
      return false;
    }
    if (view.decoder != nullptr) {
      return view.decoder->equals(*other.decoder);
    }
    if (!same_bytes(other, view)) {
      return false;
    }
    const TensorView* scales = checkpoint_.find(tensor + "_scale");
    const TensorView* other_scales = checkpoint_.find(other_name + "_scale");
    return (scales == nullptr) == (other_scales == nullptr) &&
           (scales == nullptr || same_bytes(*scales, *other_scales));
  };
  for (const auto& [other, content] : content_) {
    if (other == content && equals(other)) {
      return content_[tensor] = other;
    }
  }
  return content_[tensor] = tensor;
}

}  // namespace diffulex_edge
