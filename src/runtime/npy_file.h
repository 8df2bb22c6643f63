// Integer matrices in NumPy's .npy format.
// Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/mapped_file.h"

namespace diffulex_edge {

// A matrix [rows, columns] in C order, in place in its file.
class NpyMatrix {
 public:
  // `file` must outlive this. Throws Error{kBadFile} unless it holds integers of two dimensions and as many bytes as
  // its header says.
  explicit NpyMatrix(const MappedFile& file);

  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  // Unsigned values from 2^63 on are negative, and no ids either way.
  std::vector<std::int64_t> row(std::int64_t index) const;

 private:
  void read_header(std::string_view header);
  [[noreturn]] void fail(const std::string& what, const std::string& advice = {}) const;

  const MappedFile& file_;
  std::int64_t rows_ = 0;
  std::int64_t columns_ = 0;
  std::size_t width_ = 0;  // bytes of a value
  bool is_signed_ = false;
  std::span<const std::byte> data_;
};

}  // namespace diffulex_edge
