#include "backends/coreml/package_reader.h"

#include <algorithm>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include "backends/coreml/model_reader.h"
#include "backends/coreml/package.h"
#include "backends/coreml/weight_file.h"
#include "core/json.h"
#include "core/links.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge::coreml {
namespace {

namespace fs = std::filesystem;
using Bytes = std::span<const std::byte>;
using nlohmann::json;

constexpr std::size_t kMaxManifestBytes = std::size_t{1} << 20U;
constexpr std::size_t kMaxParts = 10'000;
constexpr std::string_view kModelPath = "@model_path/";
constexpr const char* kDamaged = "the file is truncated or damaged";

[[noreturn]] void fail(const std::string& where, const std::string& what, const char* advice = kDamaged) {
  throw Error(ErrorCode::kBadFile, where, what, advice);
}

std::string_view text_of(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

// The member of an object, which has to be there and a string.
std::string string_at(const json& object, const char* key, const std::string& where) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (found == object.end() || !found->is_string()) {
    fail(where, "has no text '" + std::string(key) + "' where it should");
  }
  return found->get<std::string>();
}

// One package, whatever its files lie in.
class PackageReader {
 public:
  // The content of a file by its path in the package. Throws Error{kBadFile} where there is none.
  using Open = std::function<Bytes(const std::string& path)>;

  // `place` is the package's own, for messages; `prefix` goes before the paths of its files.
  PackageReader(std::string place, std::string prefix, Open open)
      : place_(std::move(place)), prefix_(std::move(prefix)), open_(std::move(open)) {}

  void read_into(PackageContents& contents) {
    const std::string path = model_path();
    ReadModel read = read_model(open(path), place_ + path);
    for (WeightReference& weight : read.weights) {
      add_weight(std::move(weight), path, contents);
    }
    check_overlaps();
    for (const auto& [name, bytes] : files_) {
      contents.files.push_back({.path = prefix_ + name, .bytes = static_cast<std::int64_t>(bytes.size())});
    }
    contents.models.push_back(std::move(read.model));
  }

 private:
  struct Entry {
    StoredBlob blob;
    Bytes file;
  };

  Bytes open(const std::string& path) {
    const auto found = files_.find(path);
    return found != files_.end() ? found->second : files_.emplace(path, open_(path)).first->second;
  }

  // Of the model's message, which the manifest names.
  std::string model_path() {
    const std::string where = place_ + kManifestFile;
    const Bytes bytes = open(kManifestFile);
    if (bytes.size() > kMaxManifestBytes) {
      fail(where, std::to_string(bytes.size()) + " bytes are more than a manifest may have");
    }
    const json manifest = parse_json(text_of(bytes), where);
    const std::string root = string_at(manifest, "rootModelIdentifier", where);
    const auto items = manifest.find("itemInfoEntries");
    const auto item = items == manifest.end() || !items->is_object() ? manifest.end() : items->find(root);
    if (items == manifest.end() || !items->is_object() || item == items->end()) {
      fail(where, "has no entry for its model '" + root + "'");
    }
    const std::string path = string_at(*item, "path", where);
    if (!is_inside(path)) {
      fail(where, "the model's path '" + path + "' leads out of the package");
    }
    return "Data/" + path;
  }

  void add_weight(WeightReference weight, const std::string& model, PackageContents& contents) {
    const std::string where = place_ + model;
    const std::string_view file = std::string_view(weight.file).substr(std::min(kModelPath.size(), weight.file.size()));
    if (!weight.file.starts_with(kModelPath) || !is_inside(file)) {
      fail(where, "the weight '" + weight.tensor.name + "' is in the file '" + weight.file +
                      "', which is not one of the package");
    }
    const std::string path = model.substr(0, model.rfind('/') + 1) + std::string(file);
    const auto [position, inserted] = blobs_.emplace(std::pair(path, weight.offset), Entry{});
    Entry& entry = position->second;
    if (inserted) {
      entry.file = open(path);
      entry.blob = read_blob(entry.file, weight.offset, place_ + path);
    }
    const std::uint64_t bits = std::uint64_t{8} * entry.blob.bytes.size() - entry.blob.padding_bits;
    if (entry.blob.type != weight.blob || bits != weight.bits) {
      fail(place_ + path, "the weight at offset " + std::to_string(weight.offset) + " has " + std::to_string(bits) +
                              " bits of type " + std::to_string(entry.blob.type) + ", and the model wants " +
                              std::to_string(weight.bits) + " of type " + std::to_string(weight.blob) + " for '" +
                              weight.tensor.name + "'");
    }
    InspectedTensor& tensor = weight.tensor;
    tensor.bytes = static_cast<std::int64_t>(entry.blob.bytes.size());
    tensor.offset = entry.blob.bytes.data() - entry.file.data();
    tensor.file = prefix_ + path;
    contents.weights.push_back(std::move(tensor));
    contents.bytes.push_back(entry.blob.bytes);
  }

  // Else a small file could ask for any amount of reading.
  void check_overlaps() const {
    std::vector<std::tuple<std::string_view, const std::byte*, const std::byte*>> ranges;
    for (const auto& [key, entry] : blobs_) {
      const Bytes bytes = entry.blob.bytes;
      const std::byte* metadata = entry.file.data() + key.second;
      ranges.emplace_back(key.first, metadata, metadata + sizeof(BlobMetadata));
      ranges.emplace_back(key.first, bytes.data(), bytes.data() + bytes.size());
    }
    std::ranges::sort(ranges);
    for (std::size_t i = 1; i < ranges.size(); ++i) {
      const auto& [file, begin, end] = ranges[i];
      const auto& [file_before, begin_before, end_before] = ranges[i - 1];
      if (file == file_before && begin < end_before) {
        fail(place_ + std::string(file), "two weights share bytes");
      }
    }
  }

  std::string place_;
  std::string prefix_;
  Open open_;
  std::map<std::string, Bytes> files_;
  std::map<std::pair<std::string, std::uint64_t>, Entry> blobs_;
};

void read_folder_into(const fs::path& folder, const std::string& prefix, PackageContents& contents) {
  const auto open = [&](const std::string& path) {
    contents.mapped.push_back(std::make_shared<const MappedFile>(folder / path));
    return contents.mapped.back()->bytes();
  };
  PackageReader((folder / "").string(), prefix, open).read_into(contents);
}

// --- A payload: the files' bytes, then its directory in JSON, reversed, so that it is read from the payload's end.

constexpr std::size_t kMaxTrailerBytes = std::size_t{10} << 20U;
constexpr std::size_t kMaxNodes = 4096;
constexpr std::size_t kMaxNameBytes = 255;
constexpr int kMaxFolders = 16;
constexpr std::string_view kReferenceMark = "CMJR";
constexpr const char* kPackagePrefix = "model.mlpackage/";

// The JSON object at the end, and how many bytes lie before it.
std::pair<std::string, std::size_t> read_trailer(std::string_view payload, const std::string& name) {
  std::size_t end = payload.find_last_not_of(std::string_view("\0 \t\r\n", 5));
  end = end == std::string_view::npos ? 0 : end + 1;
  std::string text;
  int depth = 0;
  bool in_string = false;
  bool escaped = false;
  for (std::size_t i = end; i > 0 && end - i < kMaxTrailerBytes; --i) {
    const char c = payload[i - 1];
    text += c;
    if (escaped) {
      escaped = false;
    } else if (in_string) {
      escaped = c == '\\';
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{') {
      ++depth;
    } else if (c == '}') {
      --depth;
    }
    if (depth <= 0 && !in_string) {
      if (c == '}' && depth == 0) {
        return {text, i - 1};
      }
      break;
    }
  }
  fail(name, "the Core ML payload has no directory at its end");
}

class Payload {
 public:
  Payload(Bytes payload, const std::string& name) : payload_(payload), name_(name) {
    auto [text, end] = read_trailer(text_of(payload), name);
    end_ = end;
    json document = parse_json(text, name);
    const auto nodes = document.find("nodes");
    if (nodes == document.end() || !nodes->is_array() || nodes->empty() || nodes->size() > kMaxNodes) {
      bad("is not a list of files");
    }
    nodes_ = std::move(*nodes);
    used_.assign(nodes_.size(), false);
    add_folder("", nodes_.size() - 1, 0);
    check_overlaps();
  }

  const std::map<std::string, Bytes>& files() const { return files_; }

 private:
  [[noreturn]] void bad(const std::string& what) const { fail(name_, "the directory of the Core ML payload " + what); }

  std::size_t number_at(const json& object, const char* key) const {
    const auto found = object.is_object() ? object.find(key) : object.end();
    if (found == object.end() || !found->is_number_unsigned()) {
      bad("has no number '" + std::string(key) + "' where it should");
    }
    return found->get<std::size_t>();
  }

  void add_folder(const std::string& path, std::size_t index, int depth) {
    const json& node = nodes_[index];
    used_[index] = true;
    const auto children = node.is_object() ? node.find("children") : node.end();
    if (children == node.end() || !children->is_object() || depth > kMaxFolders) {
      bad("has a folder without a list of files, or too many in each other");
    }
    for (const auto& [name, place] : children->items()) {
      if (!place.is_number_unsigned() || place.get<std::size_t>() >= index || used_[place.get<std::size_t>()]) {
        bad("has an entry in no or in two folders");
      }
      if (name.size() > kMaxNameBytes || name.find('/') != std::string::npos || !is_inside(name)) {
        bad("has the name '" + name + "'");
      }
      const std::size_t child = place.get<std::size_t>();
      if (number_at(nodes_[child], "kind") == 0) {
        used_[child] = true;
        add_file(path + name, nodes_[child]);
      } else {
        add_folder(path + name + "/", child, depth + 1);
      }
    }
  }

  void add_file(const std::string& path, const json& node) {
    const auto region = node.find("dataRegion");
    if (region == node.end()) {
      bad("has no data for '" + path + "'");
    }
    const std::size_t offset = number_at(*region, "offset");
    const std::size_t size = number_at(*region, "size");
    if (offset > end_ || size > end_ - offset) {
      bad("has data of '" + path + "' beyond the payload's end");
    }
    files_.emplace(path, payload_.subspan(offset, size));
  }

  void check_overlaps() const {
    std::vector<std::pair<const std::byte*, std::size_t>> ranges;
    for (const auto& [path, bytes] : files_) {
      ranges.emplace_back(bytes.data(), bytes.size());
    }
    std::ranges::sort(ranges);
    for (std::size_t i = 1; i < ranges.size(); ++i) {
      if (ranges[i].first < ranges[i - 1].first + ranges[i - 1].second) {
        bad("has two files that share bytes");
      }
    }
  }

  Bytes payload_;
  const std::string& name_;
  std::size_t end_ = 0;  // of the files' data
  json nodes_;
  std::vector<bool> used_;
  std::map<std::string, Bytes> files_;
};

[[noreturn]] void fail_part(const std::string& where, const std::string& package, const char* what,
                            const std::string& of = {}) {
  fail(where, "the part '" + package + "' " + what + of);
}

bool has(const std::vector<InspectedFeature>& features, const std::string& name) {
  return std::ranges::find(features, name, &InspectedFeature::name) != features.end();
}

}  // namespace

PackageContents read_package(const fs::path& folder) {
  PackageContents contents;
  read_folder_into(folder, "", contents);
  return contents;
}

PackageContents read_chunks(const fs::path& folder) {
  const fs::path path = folder / kChunksManifest;
  const std::string where = path.string();
  const json manifest = read_json_file(path, kMaxManifestBytes);
  const auto version = manifest.is_object() ? manifest.find("version") : manifest.end();
  if (string_at(manifest, "format", where) != kChunksFormat || version == manifest.end() || *version != 1) {
    fail(where, "is not the manifest of a model in parts, version 1", "inspect the packages one by one");
  }
  const auto parts = manifest.find("parts");
  if (parts == manifest.end() || !parts->is_array() || parts->empty() || parts->size() > kMaxParts) {
    fail(where, "has no list of parts");
  }
  PackageContents contents;
  contents.files.push_back(
      {.path = kChunksManifest, .bytes = static_cast<std::int64_t>(MappedFile(path).bytes().size())});
  std::set<std::string> seen;
  std::string passed;
  for (const json& part : *parts) {
    const std::string package = string_at(part, "package", where);
    if (package.find('/') != std::string::npos || !is_inside(package) || !seen.insert(package).second) {
      fail_part(where, package, "is not in the folder, or there twice");
    }
    read_folder_into(folder / package, package + "/", contents);
    InspectedModel& model = contents.models.back();
    model.name = package;
    const std::string input = string_at(part, "input", where);
    const std::string output = string_at(part, "output", where);
    if (!has(model.features.inputs, input)) {
      fail_part(where, package, "does not take ", input);
    }
    if (!has(model.features.outputs, output)) {
      fail_part(where, package, "does not give ", output);
    }
    if (!passed.empty() && passed != input) {
      fail_part(where, package, "takes what the one before it does not give: ", input);
    }
    passed = output;
  }
  return contents;
}

std::string referenced_payload(Bytes payload, const std::string& name) {
  const std::string_view text = text_of(payload);
  if (!text.starts_with(kReferenceMark)) {
    return {};
  }
  if (text.size() > kMaxManifestBytes) {
    fail(name, "the Core ML payload's reference is too long");
  }
  return string_at(parse_json(text.substr(kReferenceMark.size()), name), "key", name);
}

PackageContents read_payload(Bytes payload, const std::string& name) {
  const Payload folder(payload, name);
  PackageContents contents;
  const std::string package = kPackagePrefix;
  // A compiled model (model.mlmodelc) is a folder of another kind, only for Apple's framework.
  if (folder.files().contains(package + kManifestFile)) {
    const auto open = [&](const std::string& path) {
      const auto found = folder.files().find(package + path);
      if (found == folder.files().end()) {
        fail(name, "the Core ML payload has no file '" + package + path + "'");
      }
      return found->second;
    };
    PackageReader(name + ": " + package, package, open).read_into(contents);
  }
  contents.files.clear();
  for (const auto& [path, bytes] : folder.files()) {
    contents.files.push_back({.path = path, .bytes = static_cast<std::int64_t>(bytes.size())});
  }
  for (std::size_t i = 0; i < contents.weights.size(); ++i) {
    contents.weights[i].offset = contents.bytes[i].data() - payload.data();
  }
  return contents;
}

}  // namespace diffulex_edge::coreml
