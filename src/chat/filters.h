// Jinja's filters: `value | NAME(...)`.
#pragma once

#include <string>
#include <string_view>

#include "chat/context.h"
#include "chat/value.h"

namespace diffulex_edge::chat {

bool is_filter(std::string_view name);
Value apply_filter(Context& context, const std::string& name, const Value& input, const Arguments& arguments);

using Filter = Value (*)(Context&, const Value&, ArgumentReader&);
struct NamedFilter {
  std::string_view name;
  Filter filter;
};
// Null where the name is another's: of texts and numbers, of sequences, and those that apply filters and tests to
// items.
Filter find_text_filter(std::string_view name);
Filter find_sequence_filter(std::string_view name);

}  // namespace diffulex_edge::chat
