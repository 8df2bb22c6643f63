// Reads protocol buffers from strangers: a field is read as what it is declared, never as another wire type.
#pragma once

#include <cstdint>
#include <protozero/pbf_reader.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace diffulex_edge::coreml {

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

}  // namespace diffulex_edge::coreml
