#include "diffulex_edge/gguf_output.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "chat/template_files.h"
#include "checkpoint/row_decoder.h"
#include "core/output_file.h"
#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "model_files/gguf_file.h"
#include "model_files/gguf_header.h"
#include "models/gguf_architecture.h"
#include "models/special_tokens.h"
#include "quant/gguf_encoding.h"
#include "quant/weight_stream.h"
#include "tokenizer/gguf_vocabulary.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

constexpr std::uint32_t kTypeOfFactors = 0;  // F32

// One weight's matrix or vector in the file.
struct PlacedWeight {
  const LayerPlan* layer = nullptr;
  StoredWeight source;
  GgufEncoding encoding;
  std::size_t tensor = 0;        // of the file's
  std::int64_t part_offset = 0;  // in the tensor's bytes
  GgufHeadRows rows;

  std::int64_t row_bytes() const { return encoding.row_bytes(layer->columns); }
};

struct FileLayout {
  std::vector<GgufTensorToWrite> tensors;
  std::vector<PlacedWeight> weights;
};

bool is_bias(const LayerPlan& layer) { return layer.role == LayerRole::kBias; }

// The embedding whose weight the head shares, in one format: llama.cpp takes it where there is no head. Otherwise
// nullptr.
const LayerPlan* find_tied_embedding(const QuantizationPlan& plan, const LayerPlan& layer) {
  if (layer.layer != "lm_head" || is_bias(layer)) {
    return nullptr;
  }
  const auto shares = [&](const LayerPlan& other) {
    const bool has_groups = format_row(layer.dtype).takes_groups;
    return other.role == LayerRole::kEmbedding && other.tensor == layer.tensor && other.dtype == layer.dtype &&
           (!has_groups || other.format.group_size == layer.format.group_size);
  };
  const auto found = std::ranges::find_if(plan.layers, shares);
  return found == plan.layers.end() ? nullptr : &*found;
}

GgufHeadRows head_rows(const GgufPlace& place, const LayerPlan& layer) {
  const std::int64_t size = is_bias(layer) ? layer.columns : layer.rows;
  return {.head_dim = place.heads == 0 ? 0 : size / place.heads};
}

void place_part(const GgufPlace& place, const ModelConfig& config, PlacedWeight& weight, GgufTensorToWrite& tensor) {
  const LayerPlan& layer = *weight.layer;
  if (weight.encoding.type->type != tensor.type) {
    throw Error(ErrorCode::kUnsupported, layer.layer,
                "is to be in another format than other experts of its layer, whose weights are one tensor in GGUF",
                "give them all the same one");
  }
  weight.part_offset = place.part.value_or(0) * layer.rows * weight.row_bytes();
  tensor.bytes = config.experts.count * layer.rows * weight.row_bytes();
}

FileLayout lay_out_tensors(const Model& model, const QuantizationPlan& plan) {
  FileLayout layout;
  std::map<std::string, std::size_t> known;
  if (const auto factors = gguf_rope_factors(model.config); !factors.empty()) {
    const auto count = static_cast<std::int64_t>(factors.size());
    layout.tensors.push_back({.name = "rope_freqs.weight",
                              .shape = {count},
                              .type = kTypeOfFactors,
                              .bytes = count * static_cast<std::int64_t>(sizeof(float))});
  }
  for (const LayerPlan& layer : plan.layers) {
    if (find_tied_embedding(plan, layer) != nullptr) {
      continue;
    }
    const GgufPlace place = gguf_place(model.config, layer.layer, is_bias(layer) ? "bias" : "weight");
    PlacedWeight weight{.layer = &layer, .source = find_stored_weight(*model.checkpoint, layer.tensor)};
    weight.encoding = gguf_encoding(layer, weight.source);
    weight.rows = head_rows(place, layer);
    const auto [found, is_new] = known.emplace(place.tensor, layout.tensors.size());
    weight.tensor = found->second;
    if (is_new) {
      GgufTensorToWrite tensor{.name = place.tensor,
                               .shape = {layer.rows, layer.columns},
                               .type = weight.encoding.type->type,
                               .bytes = layer.rows * weight.row_bytes()};
      if (layer.role == LayerRole::kNorm || is_bias(layer)) {
        tensor.shape.erase(tensor.shape.begin());
      } else if (place.part) {
        tensor.shape.insert(tensor.shape.begin(), model.config.experts.count);
      }
      layout.tensors.push_back(std::move(tensor));
    }
    if (place.part) {
      place_part(place, model.config, weight, layout.tensors[weight.tensor]);
    }
    layout.weights.push_back(weight);
  }
  return layout;
}

// llama.cpp's number for what most of a file's bytes are.
std::uint32_t file_type(const FileLayout& layout) {
  static const std::map<std::uint32_t, std::uint32_t> kNumbers = {{0, 0}, {1, 1},   {2, 2},   {3, 3},   {6, 8},  {7, 9},
                                                                  {8, 7}, {12, 15}, {13, 17}, {14, 18}, {30, 32}};
  std::map<std::uint32_t, std::int64_t> bytes;
  for (const GgufTensorToWrite& tensor : layout.tensors) {
    if (tensor.name.starts_with("blk.")) {
      bytes[tensor.type] += tensor.bytes;
    }
  }
  const auto most = std::ranges::max_element(bytes, {}, [](const auto& entry) { return entry.second; });
  return most == bytes.end() ? 0 : kNumbers.at(most->first);
}

// A folder's name, or a repository's in the hub's cache.
std::string name_of(const fs::path& path) {
  const std::string prefix = "models--";
  for (const fs::path& part : path) {
    const std::string text = part.string();
    if (text.starts_with(prefix)) {
      return text.substr(text.rfind("--") + 2);
    }
  }
  const fs::path last = path.has_filename() ? path : path.parent_path();
  return last.stem().string();
}

// What the file is, in words: of a GGUF file, all that it says of itself.
void add_description(const fs::path& path, GgufHeader& header) {
  if (!is_gguf(path)) {
    header.add_text("general.type", "model");
    header.add_text("general.name", name_of(path));
    return;
  }
  constexpr std::array<std::string_view, 4> kOwn = {"general.architecture", "general.file_type",
                                                    "general.quantization_version", "general.alignment"};
  const std::shared_ptr<const GgufFile> file = open_gguf(path);
  for (const std::string& key : file->keys()) {
    if (key.starts_with("general.") && std::ranges::find(kOwn, key) == kOwn.end()) {
      header.add_value(key, file->value(key));
    }
  }
  file->file().check();
}

// Where a row goes. Elements of a vector are rows of one column.
void write_rows(const PlacedWeight& weight, std::int64_t offset, std::int64_t row_begin,
                std::span<const std::byte> bytes, OutputFile& file) {
  if (weight.rows.head_dim == 0) {
    file.write(offset + row_begin * weight.row_bytes(), bytes);
    return;
  }
  const bool is_vector = is_bias(*weight.layer);
  const auto size = static_cast<std::size_t>(is_vector ? sizeof(float) : static_cast<std::size_t>(weight.row_bytes()));
  for (std::size_t i = 0; i < bytes.size() / size; ++i) {
    const std::int64_t row = weight.rows.stored(row_begin + static_cast<std::int64_t>(i));
    file.write(offset + row * static_cast<std::int64_t>(size), bytes.subspan(i * size, size));
  }
}

StreamJob make_job(const PlacedWeight& weight, const QuantizationPlan& plan, std::int64_t offset, OutputFile& file) {
  StreamJob job{.source = weight.source,
                .format = weight.encoding.encoded,
                .method = weight.layer->method,
                .saturate_fp16 = plan.config.saturate_fp16};
  job.sink = [&weight, offset, &file](const EncodedTile& tile) {
    const std::vector<std::byte> blocks =
        pack_gguf_rows(*weight.layer, weight.encoding, tile.rows, tile.values, tile.scales);
    write_rows(weight, offset, tile.row_begin, blocks, file);
  };
  return job;
}

void copy_blocks(const PlacedWeight& weight, std::int64_t offset, OutputFile& file, const RunControl& control) {
  constexpr std::int64_t kPiece = std::int64_t{1} << 20U;
  const GgufWeight& source = *weight.encoding.copied;
  const std::int64_t most = std::max<std::int64_t>(1, kPiece / weight.row_bytes());
  const std::int64_t rows = weight.layer->rows;
  parallel_for(static_cast<std::size_t>((rows + most - 1) / most), control, [&](std::size_t item, std::size_t) {
    const std::int64_t begin = static_cast<std::int64_t>(item) * most;
    const std::int64_t count = std::min(most, rows - begin);
    std::vector<std::byte> bytes;
    bytes.reserve(static_cast<std::size_t>(count * weight.row_bytes()));
    for (std::int64_t row = begin; row < begin + count; ++row) {
      const auto blocks = source.blocks(row);
      bytes.insert(bytes.end(), blocks.begin(), blocks.end());
    }
    source.check();
    write_rows(weight, offset, begin, bytes, file);
    source.release(begin, count);
  });
}

// Blocks that are no format of ours keep the plan's: floats.
WeightFormat format_in_file(const PlacedWeight& weight) {
  const GgufEncoding& encoding = weight.encoding;
  if (encoding.copied == nullptr) {
    return encoding.encoded;
  }
  const LayerPlan& layer = *weight.layer;
  if (!layer.format.is_quantized()) {
    return layer.format;
  }
  return {.element = layer.format.element,
          .granularity = Granularity::kGroup,
          .group_size = encoding.type->elements,
          .scale_type = ElementType::kF16};
}

std::vector<std::string> describe_blocks(const FileLayout& layout) {
  std::set<std::string> with_row_scales;
  std::map<std::string_view, std::int64_t> copied;
  for (const PlacedWeight& weight : layout.weights) {
    const GgufEncoding& encoding = weight.encoding;
    if (encoding.copied != nullptr && encoding.copied->is_quantized()) {
      ++copied[encoding.type->name];
    } else if (encoding.copied == nullptr && encoding.encoded.granularity == Granularity::kChannel) {
      with_row_scales.insert(std::string(format_row(weight.layer->dtype).title));
    }
  }
  std::vector<std::string> notes;
  for (const std::string& title : with_row_scales) {
    notes.push_back(title + " weights have one scale for each row, which GGUF has in each block, rounded to FP16");
  }
  for (const auto& [name, count] : copied) {
    notes.push_back(std::to_string(count) + (count == 1 ? " weight keeps its" : " weights keep their") + " blocks of " +
                    std::string(name) + " byte for byte");
  }
  return notes;
}

void add_templates(const fs::path& folder, GgufHeader& header) {
  const auto templates = chat::find_template_files(folder);
  if (!templates || is_gguf(folder)) {
    return;  // of a GGUF file, they are among the keys of its tokenizer
  }
  constexpr const char* kKey = "tokenizer.chat_template";
  if (templates->with_tools) {
    const std::vector<std::string> names = {"tool_use"};
    header.add_texts("tokenizer.chat_templates", names);
    header.add_text(std::string(kKey) + ".tool_use", templates->with_tools->text);
  }
  header.add_text(kKey, templates->usual.text);
}

}  // namespace

bool is_gguf_name(const fs::path& path) { return path.extension() == ".gguf"; }

struct GgufOutput::State {
  const Model& original;
  GgufHeader settings;  // of the architecture
  GgufHeader tokenizer;
  std::vector<std::string> warnings;
};

GgufOutput::GgufOutput(const Model& original) : state_(new State{.original = original}) {
  add_gguf_settings(original.config, state_->settings);
  const bool has_files = !original.path.empty();
  state_->warnings =
      add_gguf_tokenizer(original.path, original.config.vocab_size,
                         has_files ? find_mask_token(original) : original.config.mask_token_id, state_->tokenizer);
  if (has_files) {
    add_templates(original.path, state_->tokenizer);
  }
}

GgufOutput::~GgufOutput() = default;

QuantizationResult GgufOutput::in_gguf_formats(const Model& model, QuantizationResult result) const {
  if (result.plan.config.mode == QuantizationMode::STATIC) {
    throw Error(ErrorCode::kUnsupported, "mode static", "GGUF has no place for ranges of activations",
                "leave out --mode");
  }
  const QuantizationPlan source = result.plan;
  const FileLayout layout = lay_out_tensors(model, source);
  std::int64_t bytes = 0;
  for (const GgufTensorToWrite& tensor : layout.tensors) {
    bytes += tensor.bytes;
  }
  constexpr double kMegabyte = 1e6;
  result.quantized_memory_mb = static_cast<double>(bytes) / kMegabyte;
  for (const PlacedWeight& weight : layout.weights) {
    result.plan.layers[static_cast<std::size_t>(weight.layer - source.layers.data())].format = format_in_file(weight);
  }
  for (LayerPlan& layer : result.plan.layers) {
    if (const LayerPlan* embedding = find_tied_embedding(result.plan, layer)) {
      layer.format = embedding->format;
    }
  }
  const std::vector<std::string> notes = describe_blocks(layout);
  result.warnings.insert(result.warnings.end(), notes.begin(), notes.end());
  result.warnings.insert(result.warnings.end(), state_->warnings.begin(), state_->warnings.end());
  return result;
}

std::int64_t GgufOutput::write(const Model& model, const QuantizationPlan& plan, const fs::path& target,
                               const RunControl& control) const {
  FileLayout layout = lay_out_tensors(model, plan);
  GgufHeader header;
  header.add_text("general.architecture", gguf_architecture(model.config));
  add_description(state_->original.path, header);
  header.add_integer("general.file_type", file_type(layout));
  header.add_integer("general.quantization_version", 2);
  header.append(state_->settings);
  header.append(state_->tokenizer);
  std::int64_t file_bytes = 0;
  const std::string head = header.lay_out(layout.tensors, file_bytes);
  OutputFile file(target, file_bytes);
  file.write(0, std::as_bytes(std::span(head)));
  if (const auto factors = gguf_rope_factors(model.config); !factors.empty()) {
    file.write(layout.tensors.front().offset, std::as_bytes(std::span(factors)));
  }
  std::vector<StreamJob> jobs;
  for (const PlacedWeight& weight : layout.weights) {
    const std::int64_t offset = layout.tensors[weight.tensor].offset + weight.part_offset;
    if (weight.encoding.copied != nullptr) {
      copy_blocks(weight, offset, file, control);
    } else {
      jobs.push_back(make_job(weight, plan, offset, file));
    }
  }
  stream_weights(jobs, control);
  file.flush(control.stop);
  file.commit();
  return file_bytes;
}

}  // namespace diffulex_edge
