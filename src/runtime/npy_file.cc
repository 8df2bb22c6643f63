#include "runtime/npy_file.h"

#include <charconv>
#include <cstring>
#include <optional>
#include <string>

#include "diffulex_edge/dtype.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kPrefixBytes = 10;      // magic, version, length of the header in 16 bits
constexpr std::size_t kLongPrefixBytes = 12;  // from version 2 on in 32 bits

// What follows "'KEY':" in the header, a Python dictionary of constants as NumPy writes it.
std::optional<std::string_view> value_of(std::string_view header, std::string_view key) {
  const std::string name = "'" + std::string(key) + "':";
  const std::size_t position = header.find(name);
  if (position == std::string_view::npos) {
    return std::nullopt;
  }
  std::string_view value = header.substr(position + name.size());
  value.remove_prefix(std::min(value.find_first_not_of(' '), value.size()));
  return value;
}

// The numbers of "(2, 128)".
std::optional<std::vector<std::int64_t>> read_shape(std::string_view text) {
  const std::size_t end = text.find(')');
  if (!text.starts_with('(') || end == std::string_view::npos) {
    return std::nullopt;
  }
  text = text.substr(1, end - 1);
  std::vector<std::int64_t> shape;
  while (true) {
    text.remove_prefix(std::min(text.find_first_not_of(", "), text.size()));
    if (text.empty()) {
      return shape;
    }
    std::int64_t size = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), size);
    if (error != std::errc() || size < 0) {
      return std::nullopt;
    }
    shape.push_back(size);
    text.remove_prefix(static_cast<std::size_t>(rest - text.data()));
  }
}

template <typename Unsigned>
std::uint64_t load(const std::byte* source) {
  Unsigned value = 0;
  std::memcpy(&value, source, sizeof(value));
  return value;
}

}  // namespace

void NpyMatrix::fail(const std::string& what, const std::string& advice) const {
  throw Error(ErrorCode::kBadFile, file_.path().string(), what, advice);
}

NpyMatrix::NpyMatrix(const MappedFile& file) : file_(file) {
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  if (text.size() < kPrefixBytes || !text.starts_with(kMagic)) {
    fail("it does not begin as a .npy file does", "write it with numpy.save");
  }
  const auto version = static_cast<unsigned char>(text[kMagic.size()]);
  if (version < 1 || version > 3) {
    fail("version " + std::to_string(version) + " of the .npy format is not known");
  }
  const std::size_t prefix = version == 1 ? kPrefixBytes : kLongPrefixBytes;
  std::size_t length = prefix;  // too long for a file without it
  if (text.size() >= prefix) {
    const std::byte* field = file.bytes().data() + kMagic.size() + 2;
    length = version == 1 ? load<std::uint16_t>(field) : load<std::uint32_t>(field);
  }
  if (text.size() < prefix || length > text.size() - prefix) {
    fail("the header claims " + std::to_string(length) + " bytes, the file has " + std::to_string(text.size()),
         "the file is truncated");
  }
  data_ = file.bytes().subspan(prefix + length);
  read_header(text.substr(prefix, length));
}

void NpyMatrix::read_header(std::string_view header) {
  const auto type = value_of(header, "descr");
  const auto order = value_of(header, "fortran_order");
  const auto shape_text = value_of(header, "shape");
  if (!type || !order || !shape_text) {
    fail("the .npy header lacks 'descr', 'fortran_order' or 'shape'");
  }
  const std::string_view name = type->substr(0, type->find('\'', 1) + 1);
  const bool known = name.size() == 5 && (name[1] == '<' || (name[1] == '|' && name[3] == '1')) &&
                     (name[2] == 'i' || name[2] == 'u') &&
                     std::string_view("1248").find(name[3]) != std::string_view::npos;
  if (!known) {
    fail("the values have the type " + std::string(type->substr(0, std::min<std::size_t>(name.size(), 20))) +
             ", not little-endian integers",
         "save it as numpy.int64");
  }
  is_signed_ = name[2] == 'i';
  width_ = static_cast<std::size_t>(name[3] - '0');
  if (!order->starts_with("False")) {
    fail("the matrix is in Fortran order", "save numpy.ascontiguousarray of it");
  }
  const auto shape = read_shape(*shape_text);
  if (!shape) {
    fail("the 'shape' in the .npy header can't be read");
  }
  if (shape->size() != 2) {
    fail("the array has " + std::to_string(shape->size()) + " dimensions, not the two of [sequences, length]");
  }
  rows_ = (*shape)[0];
  columns_ = (*shape)[1];
  const auto elements = checked_multiply(rows_, columns_);
  const auto bytes = elements ? checked_multiply(*elements, static_cast<std::int64_t>(width_)) : std::nullopt;
  if (!bytes || *bytes != static_cast<std::int64_t>(data_.size())) {
    fail("the header claims [" + std::to_string(rows_) + ", " + std::to_string(columns_) + "] values of " +
             std::to_string(width_) + " bytes, " + std::to_string(data_.size()) + " bytes follow it",
         bytes && *bytes < static_cast<std::int64_t>(data_.size()) ? "" : "the file is truncated");
  }
}

std::vector<std::int64_t> NpyMatrix::row(std::int64_t index) const {
  std::vector<std::int64_t> values(static_cast<std::size_t>(columns_));
  const std::byte* source = data_.data() + static_cast<std::size_t>(index) * values.size() * width_;
  for (std::int64_t& value : values) {
    switch (width_) {
      case 1:
        value = is_signed_ ? static_cast<std::int8_t>(*source) : static_cast<std::int64_t>(load<std::uint8_t>(source));
        break;
      case 2:
        value = is_signed_ ? static_cast<std::int16_t>(load<std::uint16_t>(source))
                           : static_cast<std::int64_t>(load<std::uint16_t>(source));
        break;
      case 4:
        value = is_signed_ ? static_cast<std::int32_t>(load<std::uint32_t>(source))
                           : static_cast<std::int64_t>(load<std::uint32_t>(source));
        break;
      default:
        value = static_cast<std::int64_t>(load<std::uint64_t>(source));
        if (!is_signed_ && value < 0) {
          fail("row " + std::to_string(index) + " has the value " + std::to_string(load<std::uint64_t>(source)) +
               ", which is no token id");
        }
    }
    source += width_;
  }
  return values;
}

}  // namespace diffulex_edge
