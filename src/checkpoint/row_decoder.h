// Weights in the quantized layouts of other programs, decoded row by row as they are read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "diffulex_edge/checkpoint.h"

namespace diffulex_edge {

// How the rows of a weight lie in one of its tensors: one behind the other, each in as many bytes; each beside the
// others, so that one row touches all pages; or in a table that all rows look into.
enum class RowLayout { kConsecutive, kInterleaved, kTable };

// One weight, made from one or more tensors of a checkpoint. Its values are float32 numbers, whatever type the other
// program would compute in: products of an integer and a scale, rounded once.
class RowDecoder {
 public:
  struct Part {
    TensorView view;
    RowLayout layout = RowLayout::kConsecutive;
  };

  // `name` is the weight's, `shape` [rows, columns] or [columns], `what` says for people what it is stored as ("GPTQ
  // INT4 in groups of 128"). The first part holds the values. Throws Error{kBadFile} where consecutive rows do not
  // divide a part's bytes.
  RowDecoder(std::string name, std::vector<std::int64_t> shape, std::string what, std::vector<Part> parts);
  virtual ~RowDecoder() = default;
  RowDecoder(const RowDecoder&) = delete;
  RowDecoder& operator=(const RowDecoder&) = delete;
  RowDecoder(RowDecoder&&) = delete;
  RowDecoder& operator=(RowDecoder&&) = delete;

  const std::string& name() const { return name_; }
  const std::vector<std::int64_t>& shape() const { return shape_; }
  const std::string& what() const { return what_; }
  // False where only the order of the rows is another program's.
  virtual bool is_quantized() const { return true; }
  std::int64_t rows() const { return shape_.size() == 2 ? shape_.front() : 1; }
  std::int64_t columns() const { return shape_.back(); }
  std::span<const Part> parts() const { return parts_; }
  std::int64_t source_bytes() const;
  // Rows that are best read together, since they share pages: 1 where each has its own.
  std::int64_t rows_together() const;

  // Rows [row_begin, row_begin + count) as count * columns floats, any of which may be not finite where the checkpoint
  // is broken. Zeros stand in for what a file lost meanwhile: `check`. Throws Error{kBadFile} for an index that is
  // beyond its table.
  virtual void decode(std::int64_t row_begin, std::int64_t count, std::span<float> target) const = 0;

  // Where the values of row `row` are integers of 4 bits in groups of `group_size`, each times a scale: the scales'
  // magnitudes, columns / group_size of them. Returns false for any other layout.
  virtual bool read_scales(std::int64_t row, std::int64_t group_size, std::span<float> scales) const;

  // Hints about the pages of these rows, as MappedFile has them. `release` throws as `check`.
  void will_need(std::int64_t row_begin, std::int64_t count) const;
  void release(std::int64_t row_begin, std::int64_t count) const;
  // Throws Error{kBadFile} where a part's file could no longer be read.
  void check() const;
  // Whether both are stored alike, in the same bytes.
  bool equals(const RowDecoder& other) const;

 protected:
  const TensorView& part(std::size_t index) const { return parts_[index].view; }
  std::span<const std::byte> part_rows(const Part& part, std::int64_t row_begin, std::int64_t count) const;

 private:
  std::string name_;
  std::vector<std::int64_t> shape_;
  std::string what_;
  std::vector<Part> parts_;
};

}  // namespace diffulex_edge
