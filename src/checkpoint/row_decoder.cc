#include "checkpoint/row_decoder.h"

#include <algorithm>
#include <utility>

#include "checkpoint/same_bytes.h"
#include "core/mapped_file.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

// A page of 4-byte words has as many rows.
constexpr std::int64_t kRowsOfPage = 1024;

}  // namespace

RowDecoder::RowDecoder(std::string name, std::vector<std::int64_t> shape, std::string what, std::vector<Part> parts)
    : name_(std::move(name)), shape_(std::move(shape)), what_(std::move(what)), parts_(std::move(parts)) {
  const auto is_empty = [](std::int64_t size) { return size < 1; };
  if (parts_.empty()) {
    throw Error(ErrorCode::kInternal, name_, "has no part");
  }
  if (shape_.empty() || shape_.size() > 2 || std::ranges::any_of(shape_, is_empty)) {
    throw Error(
        ErrorCode::kBadFile, parts_.front().view.where(),
        "has the shape " + to_string(static_shape(shape_)) + "; a weight has one or two dimensions and is not empty");
  }
  for (const Part& part : parts_) {
    if (part.layout == RowLayout::kConsecutive && part.view.bytes.size() % static_cast<std::size_t>(rows()) != 0) {
      throw Error(
          ErrorCode::kBadFile, part.view.where(),
          "has " + std::to_string(part.view.bytes.size()) + " bytes, which are no " + std::to_string(rows()) + " rows");
    }
  }
}

std::int64_t RowDecoder::source_bytes() const {
  std::int64_t bytes = 0;
  for (const Part& part : parts_) {
    bytes += static_cast<std::int64_t>(part.view.bytes.size());
  }
  return bytes;
}

std::int64_t RowDecoder::rows_together() const {
  const bool interleaved =
      std::ranges::any_of(parts_, [](const Part& part) { return part.layout == RowLayout::kInterleaved; });
  return interleaved ? std::min(rows(), kRowsOfPage) : 1;
}

std::span<const std::byte> RowDecoder::part_rows(const Part& part, std::int64_t row_begin, std::int64_t count) const {
  if (part.layout != RowLayout::kConsecutive) {
    return part.view.bytes;
  }
  const std::size_t row_bytes = part.view.bytes.size() / static_cast<std::size_t>(rows());
  return part.view.bytes.subspan(static_cast<std::size_t>(row_begin) * row_bytes,
                                 static_cast<std::size_t>(count) * row_bytes);
}

bool RowDecoder::read_scales(std::int64_t /*row*/, std::int64_t /*group_size*/, std::span<float> /*scales*/) const {
  return false;
}

void RowDecoder::will_need(std::int64_t row_begin, std::int64_t count) const {
  for (const Part& part : parts_) {
    MappedFile::will_need(part_rows(part, row_begin, count));
  }
}

void RowDecoder::release(std::int64_t row_begin, std::int64_t count) const {
  for (const Part& part : parts_) {
    if (part.layout != RowLayout::kTable) {
      MappedFile::release(part_rows(part, row_begin, count));
    }
  }
}

void RowDecoder::check() const {
  for (const Part& part : parts_) {
    part.view.check();
  }
}

bool RowDecoder::equals(const RowDecoder& other) const {
  return what_ == other.what_ && shape_ == other.shape_ &&
         std::ranges::equal(parts_, other.parts_, [](const Part& a, const Part& b) {
           return a.view.dtype == b.view.dtype && same_bytes(a.view, b.view);
         });
}

}  // namespace diffulex_edge
