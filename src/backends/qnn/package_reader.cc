#include "backends/qnn/package_reader.h"

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "backends/qnn/onnx_reader.h"
#include "backends/qnn/package.h"
#include "core/json.h"
#include "core/links.h"
#include "core/message_reader.h"

namespace diffulex_edge::qnn {
namespace {

using nlohmann::json;
using Bytes = std::span<const std::byte>;

class PackageReader {
 public:
  explicit PackageReader(const std::filesystem::path& folder)
      : folder_(folder), manifest_path_((folder / kManifestFile).string()) {}

  PackageContents read() {
    const json manifest = read_json_file(manifest_path_, kMaxManifestBytes);
    open(kManifestFile);
    if (manifest.contains("data")) {
      check_size(manifest["data"], text_of(manifest["data"], "file"));
    }
    for (const json& model : list_of(manifest, "models")) {
      add_model(text_of(model, "file"));
      if (model.contains("encodings")) {
        open(text_of(model, "encodings"));
      }
    }
    for (const json& context : list_of(manifest, "contexts")) {
      add_model(text_of(context, "model"));
      check_size(context, text_of(context, "binary"));
      if (context.contains("program")) {
        open(text_of(context, "program"));
      }
    }
    for (const auto& [name, bytes] : opened_) {
      contents_.files.push_back({.path = name, .bytes = static_cast<std::int64_t>(bytes.size())});
    }
    return std::move(contents_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { fail_message(manifest_path_, what); }

  const json& list_of(const json& manifest, const char* key) const {
    const auto found = manifest.is_object() ? manifest.find(key) : manifest.end();
    if (!manifest.is_object() || found == manifest.end() || !found->is_array()) {
      fail(std::string("has no list '") + key + "'");
    }
    return *found;
  }

  // A path in the folder.
  std::string text_of(const json& entry, const char* key) const {
    const auto found = entry.is_object() ? entry.find(key) : entry.end();
    if (!entry.is_object() || found == entry.end() || !found->is_string()) {
      fail(std::string("an entry has no text '") + key + "'");
    }
    const auto path = found->get<std::string>();
    if (!is_inside(path)) {
      fail("the path '" + path + "' leads out of the folder");
    }
    return path;
  }

  Bytes open(const std::string& name) {
    const auto found = opened_.find(name);
    if (found != opened_.end()) {
      return found->second;
    }
    contents_.mapped.push_back(std::make_shared<const MappedFile>(folder_ / name));
    return opened_.emplace(name, contents_.mapped.back()->bytes()).first->second;
  }

  // Opens a file whose size the manifest has: what is in it is read by the vendor's runtime only.
  void check_size(const json& entry, const std::string& name) {
    const Bytes bytes = open(name);
    const auto found = entry.find("bytes");
    if (found == entry.end() || !found->is_number_unsigned()) {
      fail("has no number of bytes for " + name);
    }
    if (found->get<std::uint64_t>() != bytes.size()) {
      fail_message((folder_ / name).string(), "has " + std::to_string(bytes.size()) + " bytes, and " + kManifestFile +
                                                  " says " + std::to_string(found->get<std::uint64_t>()));
    }
  }

  void add_model(const std::string& name) {
    const Bytes bytes = open(name);
    const std::string where = (folder_ / name).string();
    ReadModel read = read_model({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, where);
    read.model.name = name;
    contents_.models.push_back(std::move(read.model));
    for (ReadTensor& tensor : read.tensors) {
      add_tensor(std::move(tensor), name, bytes, where);
    }
  }

  void add_tensor(ReadTensor read, const std::string& model, Bytes message, const std::string& where) {
    if (read.location.empty()) {
      read.tensor.file = model;
      read.tensor.offset = read.raw.empty() ? 0 : reinterpret_cast<const std::byte*>(read.raw.data()) - message.data();
      contents_.bytes.push_back(std::as_bytes(std::span(read.raw)));
    } else {
      if (!is_inside(read.location)) {
        fail_message(where, "the tensor '" + read.tensor.name + "' is in '" + read.location +
                                "', which leads out of the folder");
      }
      const Bytes data = open(read.location);
      const auto size = static_cast<std::int64_t>(data.size());
      if (read.offset > size || read.tensor.bytes > size - read.offset) {
        fail_message(where, "the tensor '" + read.tensor.name + "' ends behind the end of " + read.location);
      }
      read.tensor.file = read.location;
      read.tensor.offset = read.offset;
      // Models for steps of other sizes read the same weights.
      if (!listed_.emplace(read.tensor.name, read.location, read.offset, read.tensor.bytes).second) {
        return;
      }
      contents_.bytes.push_back(
          data.subspan(static_cast<std::size_t>(read.offset), static_cast<std::size_t>(read.tensor.bytes)));
    }
    contents_.weights.push_back(std::move(read.tensor));
  }

  std::filesystem::path folder_;
  std::string manifest_path_;
  PackageContents contents_;
  std::map<std::string, Bytes> opened_;
  std::set<std::tuple<std::string, std::string, std::int64_t, std::int64_t>> listed_;  // name, file, offset, bytes
};

}  // namespace

PackageContents read_package(const std::filesystem::path& folder) { return PackageReader(folder).read(); }

}  // namespace diffulex_edge::qnn
