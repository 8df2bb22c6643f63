#include "checkpoint/distinct_tensors.h"

#include <algorithm>
#include <cstddef>
#include <span>

#include "checkpoint/row_decoder.h"
#include "checkpoint/same_bytes.h"
#include "core/mapped_file.h"

namespace diffulex_edge {
namespace {

// Equal for equal tensors: type, shape, and the first bytes.
std::string beginning_of(const TensorView& view) {
  constexpr std::size_t kBytes = 64;
  std::string key = std::to_string(static_cast<int>(view.dtype)) + " " + to_string(static_shape(view.shape)) + " ";
  const std::size_t described = key.size();
  const std::size_t count = std::min(kBytes, view.bytes.size());
  key.resize(described + count);
  MappedFile::copy_alone(view.bytes.first(count), std::as_writable_bytes(std::span(key).subspan(described)));
  return key;
}

}  // namespace

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
  std::vector<std::string>& originals = originals_[beginning_of(view)];
  const auto found = std::ranges::find_if(originals, equals);
  if (found != originals.end()) {
    return content_[tensor] = *found;
  }
  originals.push_back(tensor);
  return content_[tensor] = tensor;
}

}  // namespace diffulex_edge
