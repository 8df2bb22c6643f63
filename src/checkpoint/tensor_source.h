// Where tensors come from: files of a kind, or memory.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "diffulex_edge/checkpoint.h"

namespace diffulex_edge {

// A file, or memory, that holds tensors. A new kind of file is one class of this kind, opened in checkpoint.cc.
class TensorSource {
 public:
  TensorSource() = default;
  virtual ~TensorSource() = default;
  TensorSource(const TensorSource&) = delete;
  TensorSource& operator=(const TensorSource&) = delete;

  // In the order of their data. Views stay valid as long as the source lives, wherever it is moved.
  const std::vector<TensorView>& tensors() const { return tensors_; }

 protected:
  TensorSource(TensorSource&&) noexcept = default;
  TensorSource& operator=(TensorSource&&) noexcept = default;

  std::vector<TensorView> tensors_;
};

// All tensors of one safetensors file, fully checked against the format (header length, JSON, dtypes, offsets without
// holes or overlaps, sizes). Nothing but the header is read. Throws Error{kBadFile}.
class SafetensorsFile final : public TensorSource {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  ~SafetensorsFile() override;
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  std::unique_ptr<MappedFile> file_;
  std::map<std::string, std::string> metadata_;
};

// Tensors whose bytes the caller keeps unchanged as long as the source lives. Throws Error{kInvalidArgument} for bytes
// that do not fill the shape.
class TensorsInMemory final : public TensorSource {
 public:
  explicit TensorsInMemory(std::vector<TensorView> tensors);
};

}  // namespace diffulex_edge
