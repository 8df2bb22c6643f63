// The container of GGUF: keys with typed values, and where tensors lie in the file. Nothing is read but the header, and
// nothing that it claims is believed: every count and length is held against the bytes that are there before anything
// is allocated. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian)
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/mapped_file.h"

namespace diffulex_edge {

enum class GgufType : std::uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12
};

// A value, or the elements of an array, in the mapped file.
struct GgufValue {
  GgufType type = GgufType::kU8;  // of the elements
  bool is_array = false;
  std::uint64_t count = 1;
  std::span<const std::byte> bytes;  // all elements, one behind the other; strings with their lengths
};

struct GgufTensor {
  std::string name;
  std::vector<std::int64_t> shape;  // rows first, as in other checkpoints: the reverse of the file's order
  std::uint32_t type = 0;           // of ggml
  std::uint64_t offset = 0;         // in the data
};

class GgufFile {
 public:
  // Throws Error{kBadFile} naming the key or tensor that is broken, and Error{kUnsupported} for version 1 and for a
  // file of big-endian numbers.
  explicit GgufFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_->path(); }
  const MappedFile& file() const { return *file_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  // What follows the header.
  std::span<const std::byte> data() const { return data_; }
  std::uint64_t alignment() const { return alignment_; }

  // Values of keys; nullopt where the key is absent. Throw Error{kBadFile} naming file and key for another type.
  bool has(std::string_view key) const { return values_.contains(key); }
  std::vector<std::string> keys() const;               // all, in order
  const GgufValue& value(std::string_view key) const;  // of a key that is there
  std::optional<std::int64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::string> text(std::string_view key) const;
  // Of an array; empty where it is absent. The views are into the file.
  std::vector<std::string_view> texts(std::string_view key) const;
  std::vector<std::int64_t> integers(std::string_view key) const;
  std::vector<float> floats(std::string_view key) const;
  std::uint64_t count(std::string_view key) const;  // of an array's elements

  // Throw Error{kBadFile}: "FILE: 'key' WHAT".
  [[noreturn]] void fail(std::string_view key, const std::string& what) const;

 private:
  const GgufValue* find(std::string_view key) const;
  const GgufValue& array(std::string_view key, std::initializer_list<GgufType> types) const;

  std::unique_ptr<const MappedFile> file_;
  std::map<std::string, GgufValue, std::less<>> values_;
  std::vector<GgufTensor> tensors_;
  std::span<const std::byte> data_;
  std::uint64_t alignment_ = 32;
};

// The file; the same object for all who have it at one time, unless it has changed since it was opened. Errors: those
// of the constructor.
std::shared_ptr<const GgufFile> open_gguf(const std::filesystem::path& path);

// Whether the file begins as GGUF does. False for what is no file.
bool is_gguf(const std::filesystem::path& path);

}  // namespace diffulex_edge
