#include "mutators.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "diffulex_edge/dtype.h"
#include "input_folder.h"

// Of libFuzzer: changes data in place, and returns its new size.
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace diffulex_edge::fuzz {
namespace {

constexpr std::size_t kNewBytes = 256;  // that a part may grow by at once

void append_varint(std::string& bytes, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7U) {
    bytes += static_cast<char>(value | 0x80U);
  }
  bytes += static_cast<char>(value);
}

std::optional<std::uint64_t> take_varint(std::string_view& bytes) {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<std::uint8_t>(bytes.front());
    bytes.remove_prefix(1);
    value |= std::uint64_t{byte & 0x7FU} << shift;
    if (byte < 0x80) {
      return value;
    }
  }
  return std::nullopt;
}

struct Field {
  std::uint64_t key = 0;  // number and wire type
  std::string value;      // without the length
};

constexpr unsigned kLengthDelimited = 2;

// nullopt for what is no message.
std::optional<std::vector<Field>> split_message(std::string_view message) {
  std::vector<Field> fields;
  while (!message.empty()) {
    const auto key = take_varint(message);
    if (!key || *key < 8) {
      return std::nullopt;
    }
    const std::string_view rest = message;
    std::size_t size = 0;
    switch (*key & 7U) {
      case 0:
        if (!take_varint(message)) {
          return std::nullopt;
        }
        fields.push_back({*key, std::string(rest.substr(0, rest.size() - message.size()))});
        continue;
      case 1:
        size = 8;
        break;
      case 5:
        size = 4;
        break;
      case kLengthDelimited: {
        const auto length = take_varint(message);
        if (!length || *length > message.size()) {
          return std::nullopt;
        }
        size = static_cast<std::size_t>(*length);
        break;
      }
      default:
        return std::nullopt;
    }
    if (size > message.size()) {
      return std::nullopt;
    }
    fields.push_back({*key, std::string(message.substr(0, size))});
    message.remove_prefix(size);
  }
  return fields;
}

std::string join_message(const std::vector<Field>& fields) {
  std::string message;
  for (const Field& field : fields) {
    append_varint(message, field.key);
    if ((field.key & 7U) == kLengthDelimited) {
      append_varint(message, field.value.size());
    }
    message += field.value;
  }
  return message;
}

template <typename T>
T load(std::string_view bytes, std::size_t at) {
  T value{};
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

template <typename T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// --- GGUF, in the parts that have lengths before them.

constexpr std::uint32_t kGgufString = 8;
constexpr std::uint32_t kGgufArray = 9;

std::size_t gguf_size(std::uint32_t type) {
  constexpr std::array<std::size_t, 13> kSizes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < kSizes.size() ? kSizes[type] : 0;
}

struct GgufPiece {
  std::string bytes;
  bool has_length = false;  // a string
};

struct GgufEntry {
  std::string name;
  std::uint32_t type = 0;      // a key's, or a tensor's number of dimensions
  std::uint32_t elements = 0;  // of an array
  std::vector<GgufPiece> pieces;
};

class GgufParts {
 public:
  explicit GgufParts(std::string_view file) : rest_(file) {}

  bool read() {
    if (rest_.size() < 24) {
      return false;
    }
    head_ = rest_.substr(0, 8);
    const auto tensors = load<std::uint64_t>(rest_, 8);
    const auto keys = load<std::uint64_t>(rest_, 16);
    const std::size_t size = rest_.size();
    rest_.remove_prefix(24);
    for (std::uint64_t i = 0; i < keys; ++i) {
      if (!read_key()) {
        return false;
      }
    }
    for (std::uint64_t i = 0; i < tensors; ++i) {
      if (!read_tensor()) {
        return false;
      }
    }
    const std::size_t used = size - rest_.size();
    const std::size_t padding = (32 - used % 32) % 32;
    data_ = rest_.substr(std::min(padding, rest_.size()));
    return true;
  }

  std::string write() const {
    std::string file = head_;
    append(file, std::uint64_t{tensors_.size()});
    append(file, std::uint64_t{keys_.size()});
    for (const GgufEntry& key : keys_) {
      append_text(file, key.name);
      append(file, key.type);
      if (key.type == kGgufArray) {
        append(file, key.elements);
        const std::size_t each = gguf_size(key.elements);
        append(file, std::uint64_t{each == 0 ? key.pieces.size() : key.pieces.front().bytes.size() / each});
      }
      append_pieces(file, key.pieces);
    }
    for (const GgufEntry& tensor : tensors_) {
      append_text(file, tensor.name);
      append(file, tensor.type);
      append_pieces(file, tensor.pieces);
    }
    file.resize((file.size() + 31) / 32 * 32);
    return file + data_;
  }

  void mutate(std::size_t max_size, Random& random) {
    std::vector<GgufEntry>& entries = below(4, random) == 0 || keys_.empty() ? tensors_ : keys_;
    if (entries.empty() || below(12, random) == 0) {
      data_ = mutate_bytes(data_, std::min(max_size, data_.size() + kNewBytes));
      return;
    }
    const std::size_t at = below(entries.size(), random);
    switch (below(10, random)) {
      case 0:
        entries.erase(entries.begin() + static_cast<std::ptrdiff_t>(at));
        return;
      case 1:
        entries.push_back(entries[at]);
        entries.back().name += static_cast<char>('a' + below(26, random));
        return;
      case 2:
        entries[at].name = mutate_bytes(entries[at].name, 64);
        return;
      case 3: {
        const std::size_t from = below(entries.size(), random);  // another key's value
        entries[at].type = entries[from].type;
        entries[at].elements = entries[from].elements;
        entries[at].pieces = entries[from].pieces;
        return;
      }
      default:
        break;
    }
    if (entries[at].pieces.empty()) {
      return;
    }
    GgufPiece& piece = entries[at].pieces[below(entries[at].pieces.size(), random)];
    const std::size_t before = piece.bytes.size();
    piece.bytes = mutate_bytes(piece.bytes, std::min(max_size, before + kNewBytes));
    if (!piece.has_length && entries[at].type != kGgufArray) {
      piece.bytes.resize(before);
    }
  }

 private:
  static void append_text(std::string& file, const std::string& text) {
    append(file, std::uint64_t{text.size()});
    file += text;
  }

  static void append_pieces(std::string& file, const std::vector<GgufPiece>& pieces) {
    for (const GgufPiece& piece : pieces) {
      if (piece.has_length) {
        append_text(file, piece.bytes);
      } else {
        file += piece.bytes;
      }
    }
  }

  std::optional<std::string> take(std::uint64_t size) {
    if (size > rest_.size()) {
      return std::nullopt;
    }
    std::string bytes(rest_.substr(0, static_cast<std::size_t>(size)));
    rest_.remove_prefix(bytes.size());
    return bytes;
  }

  template <typename T>
  std::optional<T> take_number() {
    const auto bytes = take(sizeof(T));
    return bytes ? std::optional(load<T>(*bytes, 0)) : std::nullopt;
  }

  bool take_piece(std::uint64_t size, bool has_length, std::vector<GgufPiece>& pieces) {
    const auto length = has_length ? take_number<std::uint64_t>() : std::optional(size);
    auto bytes = length ? take(*length) : std::nullopt;
    if (bytes) {
      pieces.push_back({.bytes = std::move(*bytes), .has_length = has_length});
    }
    return bytes.has_value();
  }

  bool read_head(GgufEntry& entry) {
    std::vector<GgufPiece> name;
    const bool has_name = take_piece(0, true, name);
    const auto type = has_name ? take_number<std::uint32_t>() : std::nullopt;
    if (type) {
      entry.name = std::move(name.front().bytes);
      entry.type = *type;
    }
    return type.has_value();
  }

  bool read_key() {
    GgufEntry key;
    if (!read_head(key)) {
      return false;
    }
    if (key.type != kGgufArray) {
      const bool is_known = key.type == kGgufString || gguf_size(key.type) > 0;
      if (!is_known || !take_piece(gguf_size(key.type), key.type == kGgufString, key.pieces)) {
        return false;
      }
      keys_.push_back(std::move(key));
      return true;
    }
    const auto elements = take_number<std::uint32_t>();
    const auto count = elements ? take_number<std::uint64_t>() : std::nullopt;
    if (!count || *count > rest_.size() || (*elements != kGgufString && gguf_size(*elements) == 0)) {
      return false;
    }
    key.elements = *elements;
    if (*elements != kGgufString && !take_piece(*count * gguf_size(*elements), false, key.pieces)) {
      return false;
    }
    for (std::uint64_t i = 0; *elements == kGgufString && i < *count; ++i) {
      if (!take_piece(0, true, key.pieces)) {
        return false;
      }
    }
    keys_.push_back(std::move(key));
    return true;
  }

  bool read_tensor() {
    GgufEntry tensor;
    if (!read_head(tensor) || tensor.type > 8) {
      return false;
    }
    for (std::uint32_t i = 0; i < tensor.type; ++i) {
      if (!take_piece(8, false, tensor.pieces)) {
        return false;
      }
    }
    if (!take_piece(4, false, tensor.pieces) || !take_piece(8, false, tensor.pieces)) {
      return false;
    }
    tensors_.push_back(std::move(tensor));
    return true;
  }

  std::string_view rest_;
  std::string head_;
  std::vector<GgufEntry> keys_;
  std::vector<GgufEntry> tensors_;
  std::string data_;
};

// --- Safetensors.

// Offsets that fit dtypes and shapes, one tensor behind the other; nullopt where the header is no JSON.
std::optional<std::pair<std::string, std::size_t>> laid_out(const std::string& header) {
  auto document = nlohmann::ordered_json::parse(header, nullptr, false);
  if (!document.is_object()) {
    return std::nullopt;
  }
  std::size_t end = 0;
  for (auto& [name, tensor] : document.items()) {
    const bool is_tensor = tensor.is_object() && tensor.contains("dtype") && tensor["dtype"].is_string() &&
                           tensor.contains("shape") && tensor["shape"].is_array();
    if (!is_tensor || tensor["dtype"].get_ref<const std::string&>().find_first_of("0123456789") == std::string::npos) {
      continue;
    }
    const auto type = tensor["dtype"].get<std::string>();
    std::size_t bytes =
        std::clamp<std::size_t>(std::strtoul(type.data() + type.find_first_of("0123456789"), nullptr, 10) / 8, 1, 8);
    for (const auto& size : tensor["shape"]) {
      bytes *= size.is_number_unsigned() ? std::min<std::size_t>(size.get<std::size_t>(), 4096) : 1;
      bytes = std::min<std::size_t>(bytes, 1U << 16U);
    }
    tensor["data_offsets"] = {end, end + bytes};
    end += bytes;
  }
  return std::pair(document.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace), end);
}

bool has_structure(std::string_view name) {
  constexpr std::array<std::string_view, 5> kExtensions = {".safetensors", ".gguf", ".mlmodel", ".onnx", ".model"};
  return std::ranges::any_of(kExtensions, [&](std::string_view extension) { return name.ends_with(extension); });
}

// Half of the time one that others only point to: with a broken manifest, nothing is read.
std::size_t choose_file(const std::vector<std::pair<std::string, std::string>>& files, Random& random) {
  const auto found = std::ranges::find_if(files, has_structure, [](const auto& file) { return file.first; });
  if (found != files.end() && below(2, random) == 0) {
    return static_cast<std::size_t>(found - files.begin());
  }
  return below(files.size(), random);
}

std::string mutate_file(std::string_view name, std::string_view content, std::size_t max_size, Random& random) {
  if (below(8, random) == 0) {
    return mutate_bytes(std::string(content), max_size);
  }
  if (name.ends_with(".safetensors")) {
    return mutate_safetensors(content, max_size, random);
  }
  if (name.ends_with(".gguf")) {
    return mutate_gguf(content, max_size, random);
  }
  if (name.ends_with(".mlmodel") || name.ends_with(".onnx") || name.ends_with(".model")) {
    return mutate_message(content, max_size, random);
  }
  return mutate_bytes(std::string(content), max_size);
}

}  // namespace

std::string mutate_bytes(std::string bytes, std::size_t max_size) {
  const std::size_t size = std::min(bytes.size(), max_size);
  bytes.resize(std::max<std::size_t>(max_size, 1));
  bytes.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(bytes.data()), size, bytes.size()));
  return bytes;
}

std::string mutate_message(std::string_view message, std::size_t max_size, Random& random) {
  auto fields = split_message(message);
  if (!fields || fields->empty()) {
    return mutate_bytes(std::string(message), max_size);
  }
  const std::size_t at = below(fields->size(), random);
  Field& field = (*fields)[at];
  switch (below(16, random)) {
    case 0:
      fields->erase(fields->begin() + static_cast<std::ptrdiff_t>(at));
      break;
    case 1:
      fields->push_back(Field(field));
      break;
    case 2:
      std::swap(field, (*fields)[below(fields->size(), random)]);
      break;
    case 3:
      field.key = (1 + below(40, random)) * 8 + (field.key & 7U);
      break;
    default:
      if ((field.key & 7U) == kLengthDelimited) {
        const std::size_t most = std::min(max_size, field.value.size() + kNewBytes);
        field.value = split_message(field.value) ? mutate_message(field.value, most, random)
                                                 : mutate_bytes(std::move(field.value), most);
      } else if ((field.key & 7U) == 0) {
        std::string_view rest = field.value;
        std::string number;
        append(number, take_varint(rest).value_or(0));
        number = mutate_bytes(std::move(number), sizeof(std::uint64_t));
        number.resize(sizeof(std::uint64_t));
        field.value.clear();
        append_varint(field.value, load<std::uint64_t>(number, 0));
      } else {
        const std::size_t size = field.value.size();
        field.value = mutate_bytes(std::move(field.value), size);
        field.value.resize(size);
      }
  }
  return join_message(*fields);
}

std::string mutate_gguf(std::string_view file, std::size_t max_size, Random& random) {
  GgufParts parts(file);
  if (!parts.read()) {
    return mutate_bytes(std::string(file), max_size);
  }
  parts.mutate(max_size, random);
  return parts.write();
}

std::string mutate_safetensors(std::string_view file, std::size_t max_size, Random& random) {
  if (file.size() < 8) {
    return mutate_bytes(std::string(file), max_size);
  }
  const auto length = load<std::uint64_t>(file, 0);
  file.remove_prefix(8);
  const std::size_t size = static_cast<std::size_t>(std::min<std::uint64_t>(length, file.size()));
  std::string header(file.substr(0, size));
  std::string data(file.substr(size));
  if (below(8, random) == 0) {
    data = mutate_bytes(std::move(data), std::min(max_size, data.size() + kNewBytes));
  } else {
    header = mutate_bytes(std::move(header), std::min(max_size, header.size() + kNewBytes));
  }
  const auto placed = below(2, random) == 0 ? laid_out(header) : std::nullopt;
  if (placed) {
    header = placed->first;
    data.resize(placed->second);
  }
  std::string mended;
  append(mended, std::uint64_t{header.size()});
  return mended + header + data;
}

std::string mutate_input(std::string_view input, std::string_view name, std::size_t max_size, Random& random) {
  const std::vector<InputFile> files = split_input(input);
  if (files.empty()) {
    return mutate_file(name, input, max_size, random);
  }
  if (below(16, random) == 0) {
    return mutate_bytes(std::string(input), max_size);
  }
  std::vector<std::pair<std::string, std::string>> changed;
  for (const auto& [file, content] : files) {
    changed.emplace_back(file, content);
  }
  const std::size_t at = choose_file(changed, random);
  if (below(32, random) == 0) {
    changed.erase(changed.begin() + static_cast<std::ptrdiff_t>(at));
  } else {
    auto& [file, content] = changed[at];
    content = mutate_file(file, content, std::min(max_size, content.size() + kNewBytes), random);
  }
  return join_input(changed);
}

}  // namespace diffulex_edge::fuzz
