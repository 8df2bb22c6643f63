#include "tokenizer/unicode_forms.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "diffulex_edge/error.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {

std::string to_normal_form(std::string text, NormalForm form) {
  if (std::ranges::all_of(text, [](char byte) { return static_cast<unsigned char>(byte) < 0x80; })) {
    return text;  // ASCII is in every form
  }
  unsigned options = UTF8PROC_STABLE;
  options |= form == NormalForm::kNfc || form == NormalForm::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  options |= form == NormalForm::kNfkc || form == NormalForm::kNfkd ? unsigned{UTF8PROC_COMPAT} : 0U;
  utf8proc_uint8_t* output = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &output, static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(output, &std::free);
  if (length == UTF8PROC_ERROR_NOMEM) {
    throw std::bad_alloc();
  }
  if (length < 0) {
    throw Error(ErrorCode::kInternal, "", std::string("Unicode normalization failed: ") + utf8proc_errmsg(length));
  }
  return {reinterpret_cast<const char*>(output), static_cast<std::size_t>(length)};
}

std::string to_lower_case(std::string_view text) {
  constexpr char32_t kCapitalDottedI = 0x130;  // the only one that becomes two characters
  std::string result;
  result.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); i += character_length(text[i])) {
    const char32_t character = character_at(text, i);
    if (character == kCapitalDottedI) {
      result += "i\xCC\x87";
    } else {
      append_utf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(character))), result);
    }
  }
  return result;
}

std::size_t grapheme_length(std::string_view text, std::size_t position) {
  utf8proc_int32_t state = 0;
  std::size_t end = position + character_length(text[position]);
  auto previous = static_cast<utf8proc_int32_t>(character_at(text, position));
  while (end < text.size()) {
    const auto next = static_cast<utf8proc_int32_t>(character_at(text, end));
    if (utf8proc_grapheme_break_stateful(previous, next, &state)) {
      break;
    }
    previous = next;
    end += character_length(text[end]);
  }
  return end - position;
}

}  // namespace diffulex_edge
