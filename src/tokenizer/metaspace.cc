#include "tokenizer/metaspace.h"

#include "tokenizer/utf8.h"

namespace diffulex_edge {

MetaspacePrefix read_metaspace_prefix(const Fields& fields) {
  const std::string scheme = fields.text_or("prepend_scheme", "always");
  if (!fields.flag("add_prefix_space", true)) {
    // Older files have this key alone; both, and contradicting, are refused by Hugging Face too.
    if (fields.has("prepend_scheme") && scheme != "never") {
      fields.fail("'add_prefix_space' is false, 'prepend_scheme' is '" + scheme + "'");
    }
    return MetaspacePrefix::kNever;
  }
  if (scheme == "always") {
    return MetaspacePrefix::kAlways;
  }
  if (scheme == "first") {
    return MetaspacePrefix::kFirst;
  }
  if (scheme == "never") {
    return MetaspacePrefix::kNever;
  }
  fields.fail_unsupported("the 'prepend_scheme' '" + scheme + "' is not supported");
}

std::string read_character(const Fields& fields, const char* key) {
  const std::string& text = fields.text(key);
  if (text.empty() || character_length(text.front()) != text.size()) {
    fields.fail("'" + std::string(key) + "' is '" + text + "', which is not one character");
  }
  return text;
}

}  // namespace diffulex_edge
