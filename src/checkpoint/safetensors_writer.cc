#include "checkpoint/safetensors_writer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <tuple>

namespace diffulex_edge {

std::int64_t TensorToWrite::bytes() const {
  return element_count(static_shape(shape)) * static_cast<std::int64_t>(byte_size(dtype));
}

std::string lay_out_safetensors(std::vector<TensorToWrite>& tensors, std::int64_t& file_bytes) {
  std::ranges::sort(tensors, [](const TensorToWrite& a, const TensorToWrite& b) {
    return std::tuple(byte_size(b.dtype), a.dtype, a.name) < std::tuple(byte_size(a.dtype), b.dtype, b.name);
  });
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  std::int64_t offset = 0;
  for (TensorToWrite& tensor : tensors) {
    tensor.offset = offset;
    offset += tensor.bytes();
    header[tensor.name] = {
        {"dtype", to_string(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {tensor.offset, offset}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const auto length = static_cast<std::uint64_t>(text.size());
  std::string head(reinterpret_cast<const char*>(&length), sizeof(length));
  head += text;
  for (TensorToWrite& tensor : tensors) {
    tensor.offset += static_cast<std::int64_t>(head.size());
  }
  file_bytes = static_cast<std::int64_t>(head.size()) + offset;
  return head;
}

}  // namespace diffulex_edge
