// Looks into checkpoints and artefacts.

#include "diffulex_edge/inspection.h"

#include <algorithm>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "backends/package_contents.h"
#include "bundle/bundle.h"
#include "checkpoint/row_decoder.h"
#include "checkpoint/stored_weight.h"
#include "core/mapped_file.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/error.h"
#include "model_files/gguf_file.h"
#include "models/adapter_config.h"
#include "models/parsed_config.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

InspectedTensor describe(const TensorView& view) {
  return {
      .name = view.name,
      .dtype = view.decoder != nullptr ? view.decoder->what() : std::string(to_string(view.dtype)),
      .shape = view.shape,
      .bytes = view.decoder != nullptr ? view.decoder->source_bytes() : static_cast<std::int64_t>(view.bytes.size()),
      .offset = view.bytes.data() - view.file->bytes().data(),
      .file = view.file->path().filename().string()};
}

// Of the files that hold the tensors.
std::int64_t file_bytes(const Checkpoint& checkpoint) {
  std::set<const MappedFile*> files;
  std::int64_t bytes = 0;
  for (const auto& [name, view] : checkpoint.tensors()) {
    if (files.insert(view.file).second) {
      bytes += static_cast<std::int64_t>(view.file->bytes().size());
    }
  }
  return bytes;
}

std::string kind_of(const fs::path& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) {
    return "checkpoint";
  }
  return is_gguf(path) ? "gguf" : "safetensors";
}

Inspection inspect_checkpoint(const ModelPlace& place, const InspectOptions& options, const RunControl& control) {
  const fs::path& path = place.folder;
  Checkpoint checkpoint(path);
  Inspection inspection{.kind = kind_of(path), .path = path};
  const bool is_folder = inspection.kind == "checkpoint";
  inspection.file_bytes =
      is_folder ? file_bytes(checkpoint) : static_cast<std::int64_t>(MappedFile(path).bytes().size());
  if (inspection.kind != "safetensors") {
    const ParsedConfig parsed = parse_config(path, {.ignored_config_keys = options.ignored_config_keys});
    inspection.config = parsed.config;
    if (parsed.prequantized) {
      read_prequantized(checkpoint, *parsed.prequantized);
    }
    if (!place.adapter.empty()) {
      merge_adapter(checkpoint, place.adapter, parsed.config, options.ignored_config_keys);
    }
  }
  std::vector<std::span<const std::byte>> bytes;
  for (const auto& [name, view] : checkpoint.tensors()) {
    InspectedTensor tensor = describe(view);
    const TensorView* scale = view.decoder == nullptr ? checkpoint.find(name + "_scale") : nullptr;
    // Other programs' packed weights have scales of other types.
    const FormatRow* const packed = find_checkpoint_format(view.dtype);
    if (packed != nullptr && packed->bits() < 8 && scale != nullptr &&
        (scale->dtype == DType::kF32 || scale->dtype == DType::kBF16)) {
      const StoredWeight stored = find_stored_weight(checkpoint, name);
      tensor.dtype = "I" + std::to_string(packed->bits());
      tensor.shape = {stored.rows, stored.columns};
      tensor.group_size = stored.format.group_size;
    }
    inspection.tensors.push_back(std::move(tensor));
    bytes.push_back(view.bytes);
  }
  if (options.hashes) {
    add_hashes(inspection.tensors, bytes, control);
  }
  return inspection;
}

}  // namespace

std::int64_t Inspection::parameters() const {
  std::int64_t total = 0;
  const bool is_checkpoint = kind == "checkpoint" || kind == "safetensors" || kind == "gguf";
  for (const InspectedTensor& tensor : tensors) {
    if (is_checkpoint && !tensor.name.ends_with("_scale")) {
      total += element_count(static_shape(tensor.shape));
    }
  }
  return total;
}

namespace {

// The reader that is sure of a path, or else the first that takes it to be one of its own; nullopt where none does.
std::optional<ArtefactReader> reader_of(const fs::path& path, const std::vector<ArtefactReader>& readers,
                                        bool is_folder) {
  std::optional<ArtefactReader> likely;
  for (const ArtefactReader& reader : readers) {
    if (reader.is_folder != is_folder) {
      continue;
    }
    const ArtefactReader::Match match = reader.match(path);
    if (match == ArtefactReader::Match::kCertain) {
      return reader;
    }
    if (match == ArtefactReader::Match::kLikely && !likely) {
      likely = reader;
    }
  }
  return likely;
}

void refuse_other_file(const fs::path& path, const std::vector<ArtefactReader>& readers) {
  if (is_gguf(path)) {
    return;
  }
  const MappedFile file(path);
  if ((file.bytes().size() > 8 && file.bytes()[8] == std::byte{'{'}) || path.extension() == ".safetensors") {
    return;
  }
  std::string known = "a safetensors file";
  for (const ArtefactReader& reader : readers) {
    known += reader.is_folder ? "" : " nor " + reader.what;
  }
  throw Error(ErrorCode::kBadFile, path.string(), "is neither " + known + " nor a GGUF file");
}

// Of all files but the artefact's.
std::vector<InspectedFile> other_files(const Bundle& bundle) {
  std::vector<InspectedFile> files;
  std::error_code error;
  fs::directory_iterator entry(bundle.folder, error);
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name != bundle.artefact.name && entry->is_regular_file(error)) {
      files.push_back({.path = name, .bytes = static_cast<std::int64_t>(entry->file_size(error))});
    }
  }
  if (error) {
    throw Error(ErrorCode::kBadFile, bundle.folder.string(), "could not be read: " + error.message());
  }
  std::ranges::sort(files, {}, &InspectedFile::path);
  return files;
}

Inspection inspect_bundle(const fs::path& path, const InspectOptions& options, const RunControl& control) {
  const Bundle bundle = read_bundle(path);
  if (options.hashes) {
    check_files(bundle);
  }
  Inspection inspection = inspect(bundle.artefact_path(), options, control);
  inspection.bundle = InspectedBundle{
      .path = path, .backend = bundle.artefact.backend, .files = other_files(bundle), .generation = to_json(bundle)};
  return inspection;
}

}  // namespace

std::vector<ArtefactReader> artefact_readers() {
  std::vector<ArtefactReader> readers;
  for (const BackendDescription& backend : BackendRegistry::instance().descriptions()) {
    for (const ArtefactReader& reader : backend.artefacts) {
      if (std::ranges::find(readers, reader.what, &ArtefactReader::what) == readers.end()) {
        readers.push_back(reader);
      }
    }
  }
  return readers;
}

Inspection inspect(const fs::path& path, const InspectOptions& options, const RunControl& control) {
  const ModelPlace model = find_model(path);
  const fs::path& place = model.folder;
  const std::vector<ArtefactReader> readers = artefact_readers();
  std::error_code error;
  const bool is_folder = fs::is_directory(place, error);
  if (is_folder && is_bundle(place)) {
    return inspect_bundle(place, options, control);
  }
  if (const auto reader = reader_of(place, readers, is_folder)) {
    return reader->inspect(place, options, control);
  }
  if (!is_folder) {
    refuse_other_file(place, readers);
  }
  return inspect_checkpoint(model, options, control);
}

}  // namespace diffulex_edge
