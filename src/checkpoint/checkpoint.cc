// A model's folder as one set of tensors.

#include "diffulex_edge/checkpoint.h"

#include <utility>

#include "checkpoint/gguf_tensors.h"
#include "checkpoint/model_folder.h"
#include "checkpoint/row_decoder.h"
#include "checkpoint/tensor_source.h"
#include "core/json.h"
#include "core/links.h"
#include "core/mapped_file.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxIndexBytes = 64U << 20U;

// The shard of each tensor, from model.safetensors.index.json.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const nlohmann::json index = read_json_file(path, kMaxIndexBytes);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw Error(ErrorCode::kBadFile, path.string(), "has no object \"weight_map\"");
  }
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    if (!shard.is_string()) {
      throw Error(ErrorCode::kBadFile, path.string(), "the shard of '" + tensor + "' is not a string");
    }
    const auto name = shard.get<std::string>();
    if (name.empty() || name.find('/') != std::string::npos || name.find('\0') != std::string::npos || name == "..") {
      throw Error(ErrorCode::kBadFile, path.string(),
                  "the shard '" + name + "' is not the name of a file in this folder");
    }
    shards[tensor] = name;
  }
  return shards;
}

// A file of tensors, whatever its kind.
std::unique_ptr<const TensorSource> open_file(const fs::path& path) {
  if (is_gguf(path)) {
    return std::make_unique<const GgufTensors>(path);
  }
  return std::make_unique<const SafetensorsFile>(path);
}

}  // namespace

struct Checkpoint::State {
  fs::path path;
  std::vector<std::unique_ptr<const TensorSource>> sources;
  std::vector<std::unique_ptr<const RowDecoder>> decoders;
  std::vector<Checkpoint> kept;
  std::map<std::string, TensorView, std::less<>> tensors;

  void add(std::unique_ptr<const TensorSource> source) {
    for (const TensorView& view : source->tensors()) {
      const auto [position, inserted] = tensors.emplace(view.name, view);
      if (inserted) {
        continue;
      }
      const TensorView& first = position->second;
      if (first.file == nullptr) {
        throw Error(ErrorCode::kInvalidArgument, first.where(), "is given twice");
      }
      throw Error(ErrorCode::kBadFile, view.where(), "is also in " + first.file->path().filename().string());
    }
    sources.push_back(std::move(source));
  }
};

Checkpoint::Checkpoint(const fs::path& path) : state_(std::make_unique<State>()) {
  state_->path = path;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    throw Error(ErrorCode::kBadFile, path.string(), "no such file or folder");
  }
  if (!fs::is_directory(status)) {
    state_->add(open_file(path));
    return;
  }
  const WeightFiles files = find_weight_files(path);
  if (!files.file.empty()) {
    state_->add(open_file(files.file));
    return;
  }
  const fs::path& index_path = files.index;
  const auto index = read_index(index_path);
  std::map<std::string, bool> shards;
  for (const auto& [tensor, shard] : index) {
    shards[shard] = true;
  }
  for (const auto& [shard, used] : shards) {
    if (!is_present(path / shard)) {
      throw Error(ErrorCode::kBadFile, (path / shard).string(), "the index names this shard, but it is missing",
                  "download it again");
    }
    state_->add(open_file(path / shard));
  }
  for (const auto& [tensor, shard] : index) {
    const TensorView* view = find(tensor);
    if (view == nullptr || view->file->path().filename() != shard) {
      throw Error(ErrorCode::kBadFile, (path / shard).string(),
                  "lacks tensor '" + tensor + "', which the index places there", "download it again");
    }
  }
}

TensorsInMemory::TensorsInMemory(std::vector<TensorView> tensors) {
  for (TensorView& view : tensors) {
    const std::int64_t elements = element_count(static_shape(view.shape));
    if (checked_multiply(elements, static_cast<std::int64_t>(byte_size(view.dtype))) !=
        static_cast<std::int64_t>(view.bytes.size())) {
      throw Error(ErrorCode::kInvalidArgument, view.where(),
                  "has " + std::to_string(view.bytes.size()) + " bytes, which do not fill its shape " +
                      to_string(static_shape(view.shape)));
    }
    view.file = nullptr;
  }
  tensors_ = std::move(tensors);
}

Checkpoint::Checkpoint(std::unique_ptr<const TensorSource> source) : state_(std::make_unique<State>()) {
  state_->add(std::move(source));
}

Checkpoint::Checkpoint(std::vector<TensorView> tensors)
    : Checkpoint(std::make_unique<const TensorsInMemory>(std::move(tensors))) {}

Checkpoint::~Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;

const fs::path& Checkpoint::path() const { return state_->path; }

const std::map<std::string, TensorView, std::less<>>& Checkpoint::tensors() const { return state_->tensors; }

const TensorView* Checkpoint::find(std::string_view name) const {
  const auto position = state_->tensors.find(name);
  return position == state_->tensors.end() ? nullptr : &position->second;
}

const TensorView& Checkpoint::at(std::string_view name) const {
  const TensorView* view = find(name);
  if (view == nullptr) {
    throw Error(state_->path.empty() ? ErrorCode::kInvalidArgument : ErrorCode::kBadFile, state_->path.string(),
                "the checkpoint has no tensor '" + std::string(name) + "'");
  }
  return *view;
}

std::int64_t Checkpoint::total_bytes() const {
  std::int64_t total = 0;
  for (const auto& [name, view] : state_->tensors) {
    total += view.decoder != nullptr ? view.decoder->source_bytes() : static_cast<std::int64_t>(view.bytes.size());
  }
  return total;
}

std::set<fs::path> Checkpoint::files() const {
  std::set<fs::path> files;
  const auto add = [&](const TensorView& view) {
    if (view.file != nullptr) {
      files.insert(view.file->path());
    }
  };
  for (const auto& [name, view] : state_->tensors) {
    add(view);
    if (view.decoder != nullptr) {
      for (const RowDecoder::Part& part : view.decoder->parts()) {
        add(part.view);
      }
    }
  }
  return files;
}

void Checkpoint::put(const std::string& name, TensorView view) {
  view.name = name;
  state_->tensors.insert_or_assign(name, std::move(view));
}

void Checkpoint::keep(Checkpoint other) { state_->kept.push_back(std::move(other)); }

void Checkpoint::replace(std::span<const std::string> tensors, std::unique_ptr<const RowDecoder> weight) {
  for (const std::string& tensor : tensors) {
    state_->tensors.erase(tensor);
  }
  const TensorView& values = weight->parts().front().view;
  const auto [position, inserted] = state_->tensors.emplace(weight->name(), TensorView{.name = weight->name(),
                                                                                       .dtype = DType::kF32,
                                                                                       .shape = weight->shape(),
                                                                                       .bytes = values.bytes,
                                                                                       .file = values.file,
                                                                                       .decoder = weight.get()});
  if (!inserted) {
    throw Error(ErrorCode::kBadFile, position->second.where(), "is there both as it is and quantized");
  }
  state_->decoders.push_back(std::move(weight));
}

}  // namespace diffulex_edge
