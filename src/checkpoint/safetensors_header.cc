#include "checkpoint/safetensors_header.h"

#include <nlohmann/json.hpp>
#include <unordered_set>

#include "core/json.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::json;

// Accepts exactly {NAME: {"dtype": string, "shape": [integers], "data_offsets": [begin, end]},
// "__metadata__": {string: string}} and throws at the first event that does not belong there.
class HeaderHandler final : public nlohmann::json_sax<Json> {
 public:
  HeaderHandler(SafetensorsHeader& header, const std::string& file) : header_(header), file_(file) {}

  bool null() override { unexpected("null"); }
  bool boolean(bool /*value*/) override { unexpected("a boolean"); }
  bool binary(binary_t& /*value*/) override { unexpected("binary data"); }
  bool number_float(number_float_t /*value*/, const string_t& text) override { unexpected("the number " + text); }

  bool number_integer(number_integer_t value) override { unexpected("the number " + std::to_string(value)); }

  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<std::uint64_t>(INT64_MAX)) {
      unexpected("the number " + std::to_string(value));
    }
    if (state_ == State::kShape) {
      if (entry_.shape.size() == kMaxRank) {
        fail("has more than " + std::to_string(kMaxRank) + " dimensions");
      }
      entry_.shape.push_back(static_cast<std::int64_t>(value));
    } else if (state_ == State::kOffsets && offsets_ < 2) {
      (offsets_++ == 0 ? entry_.begin : entry_.end) = static_cast<std::int64_t>(value);
    } else {
      unexpected("the number " + std::to_string(value));
    }
    return true;
  }

  bool string(string_t& value) override {
    if (state_ == State::kMetadata) {
      header_.metadata[key_] = value;
    } else if (state_ == State::kTensor && key_ == "dtype") {
      const auto dtype = dtype_from_string(value);
      if (!dtype) {
        fail("has the dtype '" + value + "', which this program does not know");
      }
      entry_.dtype = *dtype;
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool start_object(std::size_t /*size*/) override {
    if (state_ == State::kStart) {
      state_ = State::kTop;
    } else if (state_ == State::kTop && entry_.name == "__metadata__") {
      state_ = State::kMetadata;
    } else if (state_ == State::kTop) {
      state_ = State::kTensor;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(string_t& value) override {
    key_ = value;
    if (state_ == State::kTop) {
      if (!names_.insert(value).second) {
        throw Error(ErrorCode::kBadFile, file_, "the header names '" + value + "' twice");
      }
      entry_ = HeaderEntry{.name = value};
      fields_ = 0;
      offsets_ = 0;
    } else if (state_ == State::kMetadata) {
      if (header_.metadata.contains(value)) {
        throw Error(ErrorCode::kBadFile, file_, "the header's metadata name '" + value + "' twice");
      }
    } else {
      const unsigned bit = field_bit(value);
      if (bit == 0 || (fields_ & bit) != 0) {
        fail(bit == 0 ? "has the unknown key '" + value + "'" : "has the key '" + value + "' twice");
      }
      fields_ |= bit;
    }
    return true;
  }

  bool end_object() override {
    if (state_ == State::kTensor) {
      if (fields_ != 7U) {
        fail("lacks one of dtype, shape and data_offsets");
      }
      header_.entries.push_back(std::move(entry_));
    }
    state_ = state_ == State::kTop ? State::kEnd : State::kTop;
    return true;
  }

  bool start_array(std::size_t /*size*/) override {
    if (state_ == State::kTensor && key_ == "shape") {
      state_ = State::kShape;
    } else if (state_ == State::kTensor && key_ == "data_offsets") {
      state_ = State::kOffsets;
    } else {
      unexpected("an array");
    }
    return true;
  }

  bool end_array() override {
    if (state_ == State::kOffsets && offsets_ != 2) {
      fail("needs two data_offsets");
    }
    state_ = State::kTensor;
    return true;
  }

  bool parse_error(std::size_t /*position*/, const std::string& /*token*/, const Json::exception& error) override {
    throw Error(ErrorCode::kBadFile, file_, "the header is not valid JSON: " + json_error_text(error));
  }

 private:
  enum class State { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };
  static constexpr std::size_t kMaxRank = 16;

  // One bit for each key of a tensor's object, 0 for any other.
  static unsigned field_bit(std::string_view key) {
    if (key == "dtype") {
      return 1U;
    }
    if (key == "shape") {
      return 2U;
    }
    return key == "data_offsets" ? 4U : 0U;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::kBadFile, file_ + ": tensor '" + entry_.name + "'", what);
  }
  [[noreturn]] void unexpected(const std::string& what) const {
    throw Error(ErrorCode::kBadFile, file_, "the header holds " + what + " where the format has none");
  }

  SafetensorsHeader& header_;
  const std::string& file_;
  State state_ = State::kStart;
  std::unordered_set<std::string> names_;
  HeaderEntry entry_;
  std::string key_;
  unsigned fields_ = 0;
  int offsets_ = 0;
};

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& file) {
  // nlohmann-json takes a NUL byte for the end of its input.
  if (text.find('\0') != std::string_view::npos) {
    throw Error(ErrorCode::kBadFile, file, "the header is not valid JSON: it holds a NUL byte");
  }
  SafetensorsHeader header;
  HeaderHandler handler(header, file);
  Json::sax_parse(text.begin(), text.end(), &handler);
  return header;
}

}  // namespace diffulex_edge
