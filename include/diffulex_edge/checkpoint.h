// Where weights come from: safetensors files, single or sharded, or the caller's memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/dtype.h"

namespace diffulex_edge {

class MappedFile;
class RowDecoder;
class TensorSource;

// One tensor of a checkpoint, in place in its mapped file or in the caller's memory: little-endian, row-major, not
// necessarily aligned.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  // Zeros in place of what another process cut off the file after it was opened: call `check` before you use them.
  std::span<const std::byte> bytes;
  const MappedFile* file = nullptr;  // owned by the checkpoint; nullptr for memory
  // Of a weight in another program's quantized layout, owned by the checkpoint: `shape` is the weight's, `dtype` F32,
  // and `bytes` are the packed values, which only the decoder can read.
  const RowDecoder* decoder = nullptr;

  std::int64_t elements() const;
  // Throws Error{kBadFile} if something that was read of the file was no longer there.
  void check() const;
  // "FILE: tensor 'NAME'", for messages; without the file where there is none.
  std::string where() const;
};

// Where a model is.
struct ModelPlace {
  std::filesystem::path folder;
  std::filesystem::path adapter;  // the folder of what fine-tuning added to it; empty: nothing
};

// The model that has this name: the folder `name` itself where it is there, or else the main revision of ORG/NAME in
// the Hugging Face cache ($HF_HUB_CACHE, $HF_HOME/hub, ~/.cache/huggingface/hub). A repository's folder in that cache
// stands for its main revision, and other names for themselves. The folder of an adapter (adapter_config.json, no
// weights of a model) stands for the model that it names, with the adapter. Throws Error{kBadFile} saying how to
// download it where ORG/NAME is in neither place, or its download is incomplete, and where an adapter's model is not
// there.
ModelPlace find_model(const std::filesystem::path& name);
// The folder only, which has the configuration and the tokenizer.
std::filesystem::path find_model_folder(const std::filesystem::path& name);

// All tensors of a model, by name: of a folder with `model.safetensors`, or with the shards that
// `model.safetensors.index.json` names, or one such file of another name; or of any source.
class Checkpoint {
 public:
  // `path` is the folder or a single .safetensors file. Throws Error{kBadFile}.
  explicit Checkpoint(const std::filesystem::path& path);

  // One source. Throws Error{kInvalidArgument} for a name that comes twice.
  explicit Checkpoint(std::unique_ptr<const TensorSource> source);
  // Tensors whose bytes the caller keeps unchanged as long as the checkpoint lives. Throws Error{kInvalidArgument} for
  // bytes that do not fill the shape, and for a name that comes twice.
  explicit Checkpoint(std::vector<TensorView> tensors);
  ~Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  // Empty for sources that are no files.
  const std::filesystem::path& path() const;
  // Ordered by name.
  const std::map<std::string, TensorView, std::less<>>& tensors() const;
  const TensorView* find(std::string_view name) const;
  // Throws Error{kBadFile} naming the tensor where it is absent.
  const TensorView& at(std::string_view name) const;
  std::int64_t total_bytes() const;
  // All that the tensors are read from, in order; none for memory.
  std::set<std::filesystem::path> files() const;

  // Puts a weight in the place of tensors that it is stored in; views of them stay valid.
  void replace(std::span<const std::string> tensors, std::unique_ptr<const RowDecoder> weight);
  // Puts a tensor of another checkpoint, which this one keeps, in the place of one of its own.
  void put(const std::string& name, TensorView view);
  // Takes over what another checkpoint has opened, so that its views live as long as this one.
  void keep(Checkpoint other);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace diffulex_edge
