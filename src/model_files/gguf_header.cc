#include "model_files/gguf_header.h"

#include <ranges>

#include "core/round_up.h"

namespace diffulex_edge {
namespace {

constexpr std::uint32_t kVersion = 3;
constexpr std::int64_t kAlignment = 32;  // what is meant where no key says another

template <typename T>
void put(std::string& target, T value) {
  target.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void put_text(std::string& target, std::string_view text) {
  put(target, static_cast<std::uint64_t>(text.size()));
  target += text;
}

constexpr std::uint32_t number_of(GgufType type) { return static_cast<std::uint32_t>(type); }

}  // namespace

void GgufHeader::begin(std::string_view key, std::uint32_t type) {
  put_text(keys_, key);
  put(keys_, type);
  ++count_;
}

void GgufHeader::begin_array(std::string_view key, std::uint32_t type, std::size_t count) {
  begin(key, number_of(GgufType::kArray));
  put(keys_, type);
  put(keys_, static_cast<std::uint64_t>(count));
}

void GgufHeader::add_text(std::string_view key, std::string_view value) {
  begin(key, number_of(GgufType::kString));
  put_text(keys_, value);
}

void GgufHeader::add_integer(std::string_view key, std::uint32_t value) {
  begin(key, number_of(GgufType::kU32));
  put(keys_, value);
}

void GgufHeader::add_number(std::string_view key, float value) {
  begin(key, number_of(GgufType::kF32));
  put(keys_, value);
}

void GgufHeader::add_boolean(std::string_view key, bool value) {
  begin(key, number_of(GgufType::kBool));
  put(keys_, static_cast<std::uint8_t>(value ? 1 : 0));
}

void GgufHeader::add_texts(std::string_view key, std::span<const std::string> values) {
  begin_array(key, number_of(GgufType::kString), values.size());
  for (const std::string& value : values) {
    put_text(keys_, value);
  }
}

void GgufHeader::add_integers(std::string_view key, std::span<const std::int32_t> values) {
  begin_array(key, number_of(GgufType::kI32), values.size());
  for (const std::int32_t value : values) {
    put(keys_, value);
  }
}

void GgufHeader::add_numbers(std::string_view key, std::span<const float> values) {
  begin_array(key, number_of(GgufType::kF32), values.size());
  for (const float value : values) {
    put(keys_, value);
  }
}

void GgufHeader::add_value(std::string_view key, const GgufValue& value) {
  if (value.is_array) {
    begin_array(key, number_of(value.type), static_cast<std::size_t>(value.count));
  } else {
    begin(key, number_of(value.type));
  }
  keys_.append(reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size());
}

void GgufHeader::append(const GgufHeader& other) {
  keys_ += other.keys_;
  count_ += other.count_;
}

std::string GgufHeader::lay_out(std::span<GgufTensorToWrite> tensors, std::int64_t& file_bytes) const {
  std::string head = "GGUF";
  put(head, kVersion);
  put(head, static_cast<std::uint64_t>(tensors.size()));
  put(head, count_);
  head += keys_;
  std::int64_t end = 0;
  for (GgufTensorToWrite& tensor : tensors) {
    tensor.offset = round_up(end, kAlignment);
    end = tensor.offset + tensor.bytes;
    put_text(head, tensor.name);
    put(head, static_cast<std::uint32_t>(tensor.shape.size()));
    for (const std::int64_t size : std::views::reverse(tensor.shape)) {
      put(head, static_cast<std::uint64_t>(size));
    }
    put(head, tensor.type);
    put(head, static_cast<std::uint64_t>(tensor.offset));
  }
  head.resize(static_cast<std::size_t>(round_up(static_cast<std::int64_t>(head.size()), kAlignment)), '\0');
  const auto begin = static_cast<std::int64_t>(head.size());
  for (GgufTensorToWrite& tensor : tensors) {
    tensor.offset += begin;
  }
  // The `gguf` package and llama.cpp fill up the last tensor, too.
  file_bytes = begin + round_up(end, kAlignment);
  return head;
}

}  // namespace diffulex_edge
