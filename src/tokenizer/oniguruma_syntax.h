// Puts a regular expression in Oniguruma's syntax (as in a tokenizer.json) into PCRE2's.
#pragma once

#include <string>

namespace diffulex_edge {

// What both libraries read alike is kept; \s, \w, \h and \v, which they read differently, are spelled out; all else
// that could mean two things is refused with Error{kUnsupported}.
// https://github.com/kkos/oniguruma/blob/master/doc/RE and `man pcre2pattern`
std::string pcre2_pattern(const std::string& pattern, const std::string& where);

}  // namespace diffulex_edge
