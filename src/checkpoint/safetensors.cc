// Opens one safetensors file and checks its header against the file.
// Format: https://huggingface.co/docs/safetensors#format

#include <algorithm>
#include <cstring>
#include <string_view>
#include <tuple>

#include "checkpoint/safetensors_header.h"
#include "checkpoint/tensor_source.h"
#include "core/mapped_file.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

std::string_view header_text(const MappedFile& file) {
  const auto bytes = file.bytes();
  const std::string name = file.path().string();
  if (bytes.size() < kLengthBytes) {
    throw Error(ErrorCode::kBadFile, name,
                "a safetensors file has at least 8 bytes, this one " + std::to_string(bytes.size()),
                "download it again");
  }
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > kMaxHeaderBytes) {
    throw Error(ErrorCode::kBadFile, name,
                "the header claims " + std::to_string(length) + " bytes, the format allows 100000000",
                "is it a safetensors file?");
  }
  if (length > bytes.size() - kLengthBytes) {
    throw Error(ErrorCode::kBadFile, name,
                "the header claims " + std::to_string(length) + " bytes, the file has " + std::to_string(bytes.size()),
                "the file is truncated: download it again");
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  if (text.empty() || text.front() != '{') {
    throw Error(ErrorCode::kBadFile, name, "the header does not begin with '{'", "is it a safetensors file?");
  }
  return text;
}

void check_size(const HeaderEntry& entry, const std::string& file) {
  std::optional<std::int64_t> bytes = static_cast<std::int64_t>(byte_size(entry.dtype));
  for (const std::int64_t size : entry.shape) {
    bytes = bytes ? checked_multiply(*bytes, size) : bytes;
  }
  if (!bytes || entry.end < entry.begin || *bytes != entry.end - entry.begin) {
    throw Error(ErrorCode::kBadFile, file + ": tensor '" + entry.name + "'",
                "dtype and shape need " + (bytes ? std::to_string(*bytes) : "more than 2^63") +
                    " bytes, data_offsets give [" + std::to_string(entry.begin) + ", " + std::to_string(entry.end) +
                    "]");
  }
}

}  // namespace

SafetensorsFile::~SafetensorsFile() = default;
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(std::make_unique<MappedFile>(path)) {
  const std::string name = path.string();
  const std::string_view text = header_text(*file_);
  SafetensorsHeader header = parse_safetensors_header(text, name);
  file_->check();
  const auto data = file_->bytes().subspan(kLengthBytes + text.size());

  std::ranges::sort(header.entries, [](const HeaderEntry& a, const HeaderEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  std::int64_t expected = 0;
  for (HeaderEntry& entry : header.entries) {
    check_size(entry, name);
    if (entry.begin != expected) {
      throw Error(ErrorCode::kBadFile, name + ": tensor '" + entry.name + "'",
                  (entry.begin < expected ? "overlaps another tensor at byte " : "leaves a hole before byte ") +
                      std::to_string(entry.begin) + " of the data");
    }
    if (entry.end > static_cast<std::int64_t>(data.size())) {
      throw Error(
          ErrorCode::kBadFile, name + ": tensor '" + entry.name + "'",
          "ends at byte " + std::to_string(entry.end) + " of the data, which have " + std::to_string(data.size()),
          "the file is truncated: download it again");
    }
    expected = entry.end;
    tensors_.push_back({.name = std::move(entry.name),
                        .dtype = entry.dtype,
                        .shape = std::move(entry.shape),
                        .bytes = data.subspan(static_cast<std::size_t>(entry.begin),
                                              static_cast<std::size_t>(entry.end - entry.begin)),
                        .file = file_.get()});
  }
  if (expected != static_cast<std::int64_t>(data.size())) {
    throw Error(ErrorCode::kBadFile, name,
                "the tensors end at byte " + std::to_string(expected) + " of the data, which have " +
                    std::to_string(data.size()));
  }
  metadata_ = std::move(header.metadata);
}

std::int64_t TensorView::elements() const { return element_count(static_shape(shape)); }

void TensorView::check() const {
  if (file != nullptr) {
    file->check();
  }
}

std::string TensorView::where() const {
  return (file == nullptr ? std::string() : file->path().string() + ": ") + "tensor '" + name + "'";
}

}  // namespace diffulex_edge
