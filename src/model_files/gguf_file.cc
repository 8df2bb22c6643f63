#include "model_files/gguf_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <limits>
#include <mutex>
#include <set>
#include <utility>

#include "core/round_up.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr std::size_t kMaxDimensions = 4;
constexpr std::uint64_t kMostKeyBytes = 65535;   // the format's own limit
constexpr std::uint64_t kMostNameBytes = 1024;   // of a tensor: 64 by the format, more than that in practice
constexpr std::uint64_t kLeastTensorBytes = 24;  // of its entry in the header: a length, a count, a type, an offset
constexpr std::uint64_t kLeastKeyBytes = 13;     // a length, a type and a byte

// 0 for strings, whose size differs.
std::uint64_t element_bytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    default:
      return 0;
  }
}

template <typename T>
T read_number(const std::byte* data) {
  T value{};
  std::memcpy(&value, data, sizeof(T));
  return value;
}

// Walks through the header.
class HeaderReader {
 public:
  HeaderReader(std::span<const std::byte> bytes, std::string file) : bytes_(bytes), file_(std::move(file)) {}

  std::size_t position() const { return position_; }
  std::uint64_t left() const { return bytes_.size() - position_; }

  // What the next bytes are read as, for messages.
  void enter(std::string what) { what_ = std::move(what); }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::kBadFile, what_.empty() ? file_ : file_ + ": " + what_, what);
  }

  std::span<const std::byte> take(std::uint64_t size) {
    if (size > left()) {
      fail("claims " + std::to_string(size) + " bytes at byte " + std::to_string(position_) +
           " of the file, which has " + std::to_string(left()) + " more");
    }
    const auto taken = bytes_.subspan(position_, static_cast<std::size_t>(size));
    position_ += taken.size();
    return taken;
  }

  template <typename T>
  T number() {
    return read_number<T>(take(sizeof(T)).data());
  }

  std::string_view text(std::uint64_t most) {
    const auto size = number<std::uint64_t>();
    if (size > most) {
      fail("has a text of " + std::to_string(size) + " bytes");
    }
    const auto taken = take(size);
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }

  GgufType type() {
    const auto type = number<std::uint32_t>();
    if (type > static_cast<std::uint32_t>(GgufType::kF64)) {
      fail("is of type " + std::to_string(type) + ", which the format does not have");
    }
    return static_cast<GgufType>(type);
  }

  GgufValue value() {
    GgufValue value{.type = type(), .bytes = {}};
    if (value.type == GgufType::kArray) {
      value.is_array = true;
      value.type = type();
      value.count = number<std::uint64_t>();
      if (value.type == GgufType::kArray) {
        fail("is an array of arrays");
      }
    }
    const std::size_t begin = position_;
    if (const std::uint64_t size = element_bytes(value.type); size > 0) {
      if (value.count > left() / size) {
        fail("claims " + std::to_string(value.count) + " elements, more than the file holds");
      }
      take(value.count * size);
    } else {
      for (std::uint64_t i = 0; i < value.count; ++i) {
        text(left());
      }
    }
    value.bytes = bytes_.subspan(begin, position_ - begin);
    return value;
  }

  GgufTensor tensor() {
    GgufTensor tensor{.name = std::string(text(kMostNameBytes)), .shape = {}};
    enter("tensor '" + tensor.name + "'");
    const auto dimensions = number<std::uint32_t>();
    if (dimensions > kMaxDimensions) {
      fail("has " + std::to_string(dimensions) + " dimensions; the format has up to 4");
    }
    for (std::uint32_t i = 0; i < dimensions; ++i) {
      const auto size = number<std::uint64_t>();
      if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        fail("has a dimension of " + std::to_string(size));
      }
      tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(size));
    }
    tensor.type = number<std::uint32_t>();
    tensor.offset = number<std::uint64_t>();
    return tensor;
  }

 private:
  std::span<const std::byte> bytes_;
  std::string file_;
  std::string what_;
  std::size_t position_ = 0;
};

void check_version(HeaderReader& reader, const std::string& file) {
  const auto magic = reader.take(kMagic.size());
  if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0) {
    reader.fail("does not begin with \"GGUF\"");
  }
  const auto version = reader.number<std::uint32_t>();
  if (version != 2 && version != 3) {
    const bool swapped = version == 0x02000000U || version == 0x03000000U;
    throw Error(ErrorCode::kUnsupported, file,
                swapped ? "is a GGUF file of big-endian numbers" : "is GGUF version " + std::to_string(version),
                "versions 2 and 3 with little-endian numbers are read: convert the model again with llama.cpp");
  }
}

double as_number(GgufType type, const std::byte* data) {
  switch (type) {
    case GgufType::kF32:
      return read_number<float>(data);
    case GgufType::kF64:
      return read_number<double>(data);
    default:
      return std::numeric_limits<double>::quiet_NaN();
  }
}

// nullopt for what is no integer, or beyond int64.
std::optional<std::int64_t> as_integer(GgufType type, const std::byte* data) {
  switch (type) {
    case GgufType::kU8:
      return read_number<std::uint8_t>(data);
    case GgufType::kI8:
      return read_number<std::int8_t>(data);
    case GgufType::kU16:
      return read_number<std::uint16_t>(data);
    case GgufType::kI16:
      return read_number<std::int16_t>(data);
    case GgufType::kU32:
      return read_number<std::uint32_t>(data);
    case GgufType::kI32:
      return read_number<std::int32_t>(data);
    case GgufType::kI64:
      return read_number<std::int64_t>(data);
    case GgufType::kU64: {
      const auto value = read_number<std::uint64_t>(data);
      const bool fits = value <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
      return fits ? std::optional(static_cast<std::int64_t>(value)) : std::nullopt;
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

GgufFile::GgufFile(const std::filesystem::path& path) : file_(std::make_unique<const MappedFile>(path)) {
  const std::string name = path.string();
  HeaderReader reader(file_->bytes(), name);
  check_version(reader, name);
  const auto tensors = reader.number<std::uint64_t>();
  const auto keys = reader.number<std::uint64_t>();
  if (tensors > reader.left() / kLeastTensorBytes || keys > reader.left() / kLeastKeyBytes) {
    reader.fail("claims " + std::to_string(tensors) + " tensors and " + std::to_string(keys) +
                " keys, more than its bytes can hold");
  }
  for (std::uint64_t i = 0; i < keys; ++i) {
    reader.enter("key " + std::to_string(i));
    const std::string key(reader.text(kMostKeyBytes));
    reader.enter("key '" + key + "'");
    if (!values_.emplace(key, reader.value()).second) {
      reader.fail("comes twice");
    }
  }
  std::set<std::string_view> names;
  tensors_.reserve(static_cast<std::size_t>(tensors));
  for (std::uint64_t i = 0; i < tensors; ++i) {
    reader.enter("tensor " + std::to_string(i));
    tensors_.push_back(reader.tensor());
    if (!names.insert(tensors_.back().name).second) {
      reader.fail("comes twice");
    }
  }
  const std::int64_t alignment = integer("general.alignment").value_or(32);
  if (alignment < 1 || alignment > 1 << 20 || alignment % 8 != 0) {
    fail("general.alignment", "is " + std::to_string(alignment) + ", not a multiple of 8");
  }
  alignment_ = static_cast<std::uint64_t>(alignment);
  const auto begin = static_cast<std::size_t>(round_up(static_cast<std::int64_t>(reader.position()), alignment));
  data_ = file_->bytes().subspan(std::min(begin, file_->bytes().size()));
  file_->check();
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

std::vector<std::string> GgufFile::keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : values_) {
    keys.push_back(key);
  }
  return keys;
}

const GgufValue& GgufFile::value(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) {
    fail(key, "is missing");
  }
  return *value;
}

void GgufFile::fail(std::string_view key, const std::string& what) const {
  throw Error(ErrorCode::kBadFile, path().string() + ": '" + std::string(key) + "'", what);
}

std::optional<std::int64_t> GgufFile::integer(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const auto number = value->is_array ? std::nullopt : as_integer(value->type, value->bytes.data());
  if (!number) {
    fail(key, "is not an integer that fits in 63 bits");
  }
  return number;
}

std::optional<double> GgufFile::number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const bool is_real = !value->is_array && (value->type == GgufType::kF32 || value->type == GgufType::kF64);
  return is_real ? as_number(value->type, value->bytes.data()) : static_cast<double>(integer(key).value_or(0));
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (value->is_array || value->type != GgufType::kBool) {
    fail(key, "is not true or false");
  }
  return value->bytes[0] != std::byte{0};
}

std::optional<std::string> GgufFile::text(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (value->is_array || value->type != GgufType::kString) {
    fail(key, "is not a text");
  }
  const auto text = value->bytes.subspan(sizeof(std::uint64_t));
  return std::string(reinterpret_cast<const char*>(text.data()), text.size());
}

const GgufValue& GgufFile::array(std::string_view key, std::initializer_list<GgufType> types) const {
  static const GgufValue kNone{.is_array = true, .count = 0, .bytes = {}};
  const GgufValue* value = find(key);
  if (value == nullptr) {
    return kNone;
  }
  if (!value->is_array || std::ranges::find(types, value->type) == types.end()) {
    fail(key, "is not an array of the expected type");
  }
  return *value;
}

std::uint64_t GgufFile::count(std::string_view key) const {
  const GgufValue* value = find(key);
  return value == nullptr || !value->is_array ? 0 : value->count;
}

std::vector<std::string_view> GgufFile::texts(std::string_view key) const {
  const GgufValue& value = array(key, {GgufType::kString});
  std::vector<std::string_view> texts;
  texts.reserve(static_cast<std::size_t>(value.count));
  // The file may have changed since its header was checked.
  HeaderReader reader(value.bytes, path().string());
  reader.enter("key '" + std::string(key) + "'");
  for (std::uint64_t i = 0; i < value.count; ++i) {
    texts.push_back(reader.text(reader.left()));
  }
  return texts;
}

std::vector<std::int64_t> GgufFile::integers(std::string_view key) const {
  const GgufValue& value = array(key, {GgufType::kU8, GgufType::kI8, GgufType::kU16, GgufType::kI16, GgufType::kU32,
                                       GgufType::kI32, GgufType::kI64, GgufType::kU64});
  std::vector<std::int64_t> numbers;
  numbers.reserve(static_cast<std::size_t>(value.count));
  const std::uint64_t size = element_bytes(value.type);
  for (std::uint64_t i = 0; i < value.count; ++i) {
    const auto number = as_integer(value.type, value.bytes.data() + i * size);
    if (!number) {
      fail(key, "has an element beyond 63 bits");
    }
    numbers.push_back(*number);
  }
  return numbers;
}

std::vector<float> GgufFile::floats(std::string_view key) const {
  const GgufValue& value = array(key, {GgufType::kF32});
  std::vector<float> numbers(static_cast<std::size_t>(value.count));
  if (!numbers.empty()) {
    std::memcpy(numbers.data(), value.bytes.data(), value.bytes.size());
  }
  return numbers;
}

namespace {

// Which bytes a path stands for.
struct FileIdentity {
  dev_t device = 0;
  ino_t number = 0;
  off_t size = 0;
  std::int64_t changed_seconds = 0;
  std::int64_t changed_nanoseconds = 0;

  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

FileIdentity identity_of(const std::filesystem::path& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) {
    return {};  // opening it will say what is wrong
  }
#ifdef __APPLE__
  const timespec& changed = status.st_mtimespec;
#else
  const timespec& changed = status.st_mtim;
#endif
  return {.device = status.st_dev,
          .number = status.st_ino,
          .size = status.st_size,
          .changed_seconds = changed.tv_sec,
          .changed_nanoseconds = changed.tv_nsec};
}

// Those that somebody has. It keeps none of them alive.
class OpenFiles {
 public:
  std::shared_ptr<const GgufFile> open(const std::filesystem::path& path) {
    const FileIdentity identity = identity_of(path);
    const std::scoped_lock lock(mutex_);
    std::erase_if(files_, [](const auto& entry) { return entry.second.file.expired(); });
    Entry& entry = files_[path];
    std::shared_ptr<const GgufFile> file = entry.identity == identity ? entry.file.lock() : nullptr;
    if (file == nullptr) {
      file = std::make_shared<const GgufFile>(path);
      entry = {.identity = identity, .file = file};
    }
    return file;
  }

 private:
  struct Entry {
    FileIdentity identity;
    std::weak_ptr<const GgufFile> file;
  };

  std::mutex mutex_;
  std::map<std::filesystem::path, Entry> files_;
};

}  // namespace

std::shared_ptr<const GgufFile> open_gguf(const std::filesystem::path& path) {
  static OpenFiles files;
  return files.open(path);
}

bool is_gguf(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return false;
  }
  std::ifstream file(path, std::ios::binary);
  std::array<char, kMagic.size()> begin{};
  return file.read(begin.data(), begin.size()) && std::string_view(begin.data(), begin.size()) == kMagic;
}

}  // namespace diffulex_edge
