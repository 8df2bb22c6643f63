#include "report/text_table.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdio>

namespace diffulex_edge {
namespace {

// Columns that the text takes on a terminal: bytes that begin a UTF-8 character.
std::size_t width(const std::string& text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

}  // namespace

std::string TextTable::render() const {
  std::vector<std::size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (std::size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], width(row[i]));
    }
  }
  std::string text;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (std::size_t i = 0; i < rows_[r].size(); ++i) {
      const std::string& cell = rows_[r][i];
      const std::string padding(widths[i] - width(cell), ' ');
      const bool right = r > 0 && !cell.empty() && std::isdigit(static_cast<unsigned char>(cell[0])) != 0;
      line += (i == 0 ? "" : "  ") + (right ? padding + cell : cell + padding);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
    if (r == 0) {
      for (std::size_t i = 0; i < widths.size(); ++i) {
        text += (i == 0 ? "" : "  ") + std::string(widths[i], '-');
      }
      text += "\n";
    }
  }
  return text;
}

std::string format_number(double value, int decimals) {
  std::array<char, 64> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%.*f", decimals, value);
  return buffer.data();
}

std::string format_mib(double mib) { return format_number(mib, 2) + " MiB"; }

double to_mib(std::int64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

std::string format_bytes(std::int64_t bytes) { return format_mib(to_mib(bytes)); }

std::string format_megabytes(double megabytes) { return format_bytes(std::llround(1e6 * megabytes)); }

std::string format_count(std::int64_t count) {
  std::string digits = std::to_string(count);
  for (std::size_t i = digits.size(); i > 3;) {
    i -= 3;
    digits.insert(i, ",");
  }
  return digits;
}

}  // namespace diffulex_edge
