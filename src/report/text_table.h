// Aligned columns for a terminal.
#pragma once

#include <string>
#include <vector>

namespace diffulex_edge {

class TextTable {
 public:
  explicit TextTable(std::vector<std::string> header) : rows_{std::move(header)} {}

  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  // Cells that begin with a digit are aligned to the right. Two spaces between columns, a rule under the header.
  std::string render() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

double to_mib(std::int64_t bytes);
// Two decimals and a unit: "3.31 MiB".
std::string format_mib(double mib);
std::string format_bytes(std::int64_t bytes);
// Megabytes (10^6 bytes) in MiB, as every other size of a report.
std::string format_megabytes(double megabytes);
std::string format_number(double value, int decimals);
// "589,824"
std::string format_count(std::int64_t count);

}  // namespace diffulex_edge
