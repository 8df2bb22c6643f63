// Reads untrusted protocol buffers: a field is read as what it is declared, never as another wire type.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <protozero/pbf_reader.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "diffulex_edge/error.h"

namespace diffulex_edge {

inline constexpr int kMaxMessageDepth = 32;  // of messages that hold others of their own kind

[[noreturn]] inline void fail_message(const std::string& file, const std::string& what) {
  throw Error(ErrorCode::kBadFile, file, what, "the file is truncated or damaged");
}

inline void check_message_depth(const std::string& file, int depth) {
  if (depth > kMaxMessageDepth) {
    fail_message(file, "is nested deeper than " + std::to_string(kMaxMessageDepth));
  }
}

// Every function but skip() throws protozero::exception where the bytes are no such message.
class MessageReader {
 public:
  explicit MessageReader(std::string_view bytes) : reader_(bytes.data(), bytes.size()) {}

  // Goes to the next field, which has to be read or skipped.
  bool next() { return reader_.next(); }
  protozero::pbf_tag_type tag() const { return reader_.tag(); }
  void skip() { reader_.skip(); }

  // The bytes of a string or message.
  std::string_view view() {
    expect(protozero::pbf_wire_type::length_delimited);
    const protozero::data_view found = reader_.get_view();
    return {found.data(), found.size()};
  }
  std::string text() { return std::string(view()); }
  MessageReader message() { return MessageReader(view()); }

  std::int64_t integer() {
    expect(protozero::pbf_wire_type::varint);
    return static_cast<std::int64_t>(reader_.get_uint64());
  }
  bool truth() { return integer() != 0; }

  float number() {
    expect(protozero::pbf_wire_type::fixed32);
    return reader_.get_float();
  }

  // Of a repeated field, packed or not.
  void append_integers(std::vector<std::int64_t>& values) {
    if (reader_.has_wire_type(protozero::pbf_wire_type::varint)) {
      values.push_back(integer());
      return;
    }
    expect(protozero::pbf_wire_type::length_delimited);
    for (const std::int64_t value : reader_.get_packed_int64()) {
      values.push_back(value);
    }
  }

 private:
  void expect(protozero::pbf_wire_type type) const {
    if (!reader_.has_wire_type(type)) {
      throw protozero::unknown_pbf_wire_type_exception{};
    }
  }

  protozero::pbf_reader reader_;
};

// Of a map: each entry is a message with the key as field 1 and the value as field 2. Pairs of texts that are declared
// so by hand look the same.
inline std::pair<std::string_view, std::string_view> read_map_entry(MessageReader message) {
  std::pair<std::string_view, std::string_view> entry;
  while (message.next()) {
    switch (message.tag()) {
      case 1:
        entry.first = message.view();
        break;
      case 2:
        entry.second = message.view();
        break;
      default:
        message.skip();
    }
  }
  return entry;
}

// What an enumeration's numbers or a message's fields are called.
struct NumberedName {
  std::int64_t number = 0;
  std::string_view name;
};

template <std::size_t size>
std::optional<std::string> find_name(const std::array<NumberedName, size>& names, std::int64_t number) {
  const auto* const found = std::ranges::find(names, number, &NumberedName::number);
  return found == names.end() ? std::nullopt : std::optional(std::string(found->name));
}

}  // namespace diffulex_edge
