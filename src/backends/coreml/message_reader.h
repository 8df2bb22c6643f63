// Reads Core ML's protocol buffers from strangers.
#pragma once

#include <string_view>
#include <utility>

#include "backends/coreml/message_fields.h"
#include "core/message_reader.h"

namespace diffulex_edge::coreml {

inline std::pair<std::string_view, std::string_view> read_map_entry(MessageReader message) {
  std::pair<std::string_view, std::string_view> entry;
  while (message.next()) {
    switch (message.tag()) {
      case field::kMapKey:
        entry.first = message.view();
        break;
      case field::kMapValue:
        entry.second = message.view();
        break;
      default:
        message.skip();
    }
  }
  return entry;
}

}  // namespace diffulex_edge::coreml
