// Reading Hugging Face checkpoints: safetensors files, single or sharded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/dtype.h"

namespace diffulex_edge {

class MappedFile;

// One tensor of a checkpoint, in place in its mapped file or in the caller's memory: little-endian, row-major, not
// necessarily aligned.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
  const MappedFile* file = nullptr;  // owned by the checkpoint; nullptr for memory

  std::int64_t elements() const;
  // "FILE: tensor 'NAME'", for messages; without the file where there is none.
  std::string where() const;
};

// All tensors of one safetensors file, fully checked against the format (header length, JSON, dtypes, offsets without
// holes or overlaps, sizes). Nothing but the header is read. Throws Error{kBadFile}.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::vector<TensorView>& tensors() const { return tensors_; }  // in the order of their data
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  std::unique_ptr<MappedFile> file_;
  std::vector<TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

// A model's folder: `model.safetensors`, or the shards named by `model.safetensors.index.json`. Or tensors in memory.
class Checkpoint {
 public:
  // `path` is the folder or a single .safetensors file. Throws Error{kBadFile}.
  explicit Checkpoint(const std::filesystem::path& path);

  // Tensors whose bytes the caller keeps unchanged as long as the checkpoint lives. Throws Error{kInvalidArgument} for
  // a name that comes twice, and bytes that do not fill the shape.
  explicit Checkpoint(std::vector<TensorView> tensors);

  // Empty for tensors in memory.
  const std::filesystem::path& path() const { return path_; }
  // Ordered by name.
  const std::map<std::string, TensorView, std::less<>>& tensors() const { return tensors_; }
  const TensorView* find(std::string_view name) const;
  // Throws Error{kBadFile} naming the tensor where it is absent.
  const TensorView& at(std::string_view name) const;
  std::int64_t total_bytes() const;

 private:
  void add(SafetensorsFile file);

  std::filesystem::path path_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, TensorView, std::less<>> tensors_;
};

}  // namespace diffulex_edge
