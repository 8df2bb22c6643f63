// std::from_chars for floating point, which libc++ (Android's and Apple's standard library) lacks.
#pragma once

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <string>
#include <string_view>

namespace diffulex_edge {

// As std::from_chars in its general format: ptr is behind what was read. Without it, by strtod, which reads the decimal
// point of the process's locale; a process that sets none has the right one.
inline std::from_chars_result parse_double(const char* begin, const char* end, double& value) {
#ifdef __cpp_lib_to_chars
  return std::from_chars(begin, end, value);
#else
  const std::string text(begin, end);
  const std::string_view number = std::string_view(text).substr(text.starts_with('-') ? 1 : 0);
  // What strtod would take besides: spaces, signs, hexadecimal digits.
  const bool is_other = number.empty() || !(number.front() == '.' || (number.front() >= '0' && number.front() <= '9') ||
                                            (number.front() | 0x20) == 'i' || (number.front() | 0x20) == 'n');
  if (is_other || number.find_first_of("xX") == 1) {
    return {begin, std::errc::invalid_argument};
  }
  char* stop = nullptr;
  errno = 0;
  const double found = std::strtod(text.c_str(), &stop);
  const char* const behind = begin + (stop - text.c_str());
  if (behind == begin) {
    return {begin, std::errc::invalid_argument};
  }
  if (errno == ERANGE) {
    return {behind, std::errc::result_out_of_range};
  }
  value = found;
  return {behind, std::errc()};
#endif
}

}  // namespace diffulex_edge
