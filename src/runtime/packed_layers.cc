#include "runtime/packed_layers.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <system_error>

#include "checkpoint/stored_weight.h"
#include "core/content_hash.h"
#include "core/sha256.h"
#include "diffulex_edge/error.h"
#include "quant/codebook.h"
#include "quant/kernels/kernels.h"
#include "quant/weight_decoder.h"
#include "quant/weight_stream.h"
#include "runtime/pack_file.h"
#include "runtime/packed_multiply.h"

namespace diffulex_edge {
namespace {

// Without a plan, what loses nothing: quantized weights and FP16 as they are.
WeightFormat packed_format(const StoredWeight& source, const LayerPlan* plan) {
  if (plan != nullptr) {
    // The values of tables are in float16.
    return plan->format.has_codebook() ? float_format(ElementType::kF16) : plan->format;
  }
  const bool keeps = source.format.is_quantized() || source.format.element == ElementType::kF16;
  return keeps ? source.format : float_format(ElementType::kF32);
}

// Rows of indices as the float16 values that they stand for.
void store_values(PackedWeight& weight, const EncodedTile& tile) {
  const std::int64_t columns = weight.columns();
  std::vector<float> values(static_cast<std::size_t>(tile.rows * columns));
  decode_indices(*tile.codebooks, tile.values, tile.row_begin, tile.rows, columns, values);
  std::vector<std::uint16_t> halves(values.size());
  kernels::f32_to_f16(values.data(), halves.data(), values.size());
  weight.store({.row_begin = tile.row_begin,
                .rows = tile.rows,
                .values = std::as_writable_bytes(std::span(halves)),
                .scales = {}});
}

// Loads all weights at once, those that several layers share once.
class WeightLoader {
 public:
  explicit WeightLoader(const Model& model) : model_(model) {}

  // Returns the weight's number.
  std::size_t add(const std::string& tensor, const LayerPlan* plan, bool saturate_fp16) {
    const StoredWeight source = find_stored_weight(*model_.checkpoint, tensor);
    const WeightFormat format = packed_format(source, plan);
    const bool has_codebook = plan != nullptr && plan->format.has_codebook();
    const WeightFormat encoded = has_codebook ? plan->format : format;
    std::vector<std::size_t>& uses = by_tensor_[tensor];
    const auto found = std::ranges::find_if(uses, [&](std::size_t i) { return entries_[i].encoded == encoded; });
    if (found != uses.end()) {
      return *found;
    }
    uses.push_back(entries_.size());
    entries_.push_back({.tensor = tensor,
                        .encoded = encoded,
                        .rows = source.rows,
                        .columns = source.columns,
                        .format = format,
                        .weight = {}});
    jobs_.push_back({.source = source,
                     .format = encoded,
                     .method = plan == nullptr ? RoundingMethod::RTN : plan->method,
                     .saturate_fp16 = saturate_fp16,
                     .importance = has_codebook ? std::span(plan->importance) : std::span<const float>(),
                     .sink = {}});
    return entries_.size() - 1;
  }

  // Packs them all.
  void stream(const RunControl& control) {
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      Entry& entry = entries_[i];
      entry.weight = std::make_shared<PackedWeight>(entry.rows, entry.columns, entry.format);
      jobs_[i].sink = [weight = entry.weight, has_codebook = entry.encoded.has_codebook()](const EncodedTile& tile) {
        if (has_codebook) {
          store_values(*weight, tile);
        } else {
          weight->store(tile);
        }
      };
    }
    stream_weights(jobs_, control);
  }

  // Takes them from a file, or packs them and writes it first. What is returned keeps the mapping.
  std::shared_ptr<const MappedFile> map(const std::filesystem::path& folder, const RunControl& control) {
    const std::string key = this->key();
    std::optional<PackFile> file = PackFile::open(folder, key);
    if (!file) {
      stream(control);
      std::vector<std::span<const std::byte>> images;
      for (const Entry& entry : entries_) {
        images.push_back(entry.weight->image());
      }
      PackFile::write(folder, key, images, control);
      file = PackFile::open(folder, key);
    }
    if (!file || file->images().size() != entries_.size()) {
      throw Error(ErrorCode::kBadFile, PackFile::path_of(folder, key).string(), "has not this model's weights",
                  "delete it: it is written again");
    }
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      Entry& entry = entries_[i];
      entry.weight =
          std::make_shared<PackedWeight>(entry.rows, entry.columns, entry.format, file->images()[i], file->file());
    }
    return file->file();
  }

  // After stream() or map().
  const std::shared_ptr<PackedWeight>& weight(std::size_t number) const { return entries_[number].weight; }

 private:
  struct Entry {
    std::string tensor;
    WeightFormat encoded;
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    WeightFormat format;
    std::shared_ptr<PackedWeight> weight;
  };

  // Changes with anything that changes a packed byte: the files by their names, sizes and times, since reading them
  // takes as long as packing, and how each weight is rounded.
  std::string key() const {
    std::string lines = "packs 1\n";
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const Entry& entry = entries_[i];
      const StreamJob& job = jobs_[i];
      lines += entry.tensor + " " + std::to_string(entry.rows) + " " + std::to_string(entry.columns) + " " +
               to_string(entry.encoded) + " " + to_string(entry.format) + " " + std::string(to_string(job.method)) +
               (job.saturate_fp16 ? " saturated " : " ") + to_string(content_digest({std::as_bytes(job.importance)})) +
               "\n";
    }
    const auto& tensors = model_.checkpoint->tensors();
    if (std::ranges::any_of(tensors, [](const auto& tensor) { return tensor.second.file == nullptr; })) {
      throw Error(ErrorCode::kInvalidArgument, "pack cache", "is for models in files", "leave it out");
    }
    for (const std::filesystem::path& file : model_.checkpoint->files()) {
      std::error_code ignored;
      const auto time = std::filesystem::last_write_time(file, ignored).time_since_epoch().count();
      lines += std::filesystem::weakly_canonical(file, ignored).string() + " " +
               std::to_string(std::filesystem::file_size(file, ignored)) + " " + std::to_string(time) + "\n";
    }
    return sha256_hex(std::as_bytes(std::span(lines)));
  }

  const Model& model_;
  std::vector<Entry> entries_;
  std::map<std::string, std::vector<std::size_t>> by_tensor_;
  std::vector<StreamJob> jobs_;
};

}  // namespace

PackedLayers::PackedLayers(const Model& model, const QuantizationPlan* plan, const RunControl& control,
                           const std::filesystem::path& packs) {
  const Graph& graph = model.graph;
  WeightLoader loader(model);
  std::map<Layer*, std::size_t> numbers;
  for (const Node& node : graph.nodes()) {
    if (node.op == Op::kRmsNorm || (node.op == Op::kRoute && node.inputs.size() > 1)) {
      const std::string& tensor = graph.tensor(node.inputs[1]);
      vectors_[tensor] = load_tensor(*model.checkpoint, tensor);
    }
    if (node.op != Op::kLinear && node.op != Op::kEmbedding) {
      continue;
    }
    const std::string& tensor = graph.tensor(node.inputs[node.op == Op::kLinear ? 1 : 0]);
    const LayerPlan* layer_plan = find_plan(plan, node, tensor);
    Layer& layer = layers_[node.name];
    layer.arithmetic = input_arithmetic(layer_plan);
    if (layer_plan != nullptr && layer_plan->format.has_codebook() && layer.arithmetic != InputArithmetic::kFloat) {
      throw Error(ErrorCode::kUnsupported, node.name,
                  "the fast arithmetic has no kernel for palettes with 8-bit inputs", "use --arithmetic simulated");
    }
    if (layer_plan != nullptr) {
      layer.plan = *layer_plan;
      if (!PackedWeight::can_hold(layer_plan->columns, layer_plan->format)) {
        throw Error(ErrorCode::kUnsupported, node.name,
                    "has " + std::to_string(layer_plan->columns) +
                        " inputs, and the fast arithmetic's sums of 32 bits hold " +
                        std::to_string(PackedWeight::kMostInt8Columns) + " in INT8",
                    "use --arithmetic simulated");
      }
    }
    numbers[&layer] = loader.add(tensor, layer_plan, plan != nullptr && plan->config.saturate_fp16);
    if (node.op == Op::kLinear && node.inputs.size() > 2) {
      layer.bias = load_tensor(*model.checkpoint, graph.tensor(node.inputs[2]));
    }
  }
  if (packs.empty()) {
    loader.stream(control);
  } else {
    pack_ = loader.map(packs, control);
  }
  for (const auto& [layer, number] : numbers) {
    layer->weight = loader.weight(number);
  }
}

void PackedLayers::check() const {
  if (pack_ != nullptr) {
    pack_->check();
  }
}

const PackedLayers::Layer& PackedLayers::layer_of(const Node& node) const {
  const auto found = layers_.find(node.name);
  if (found == layers_.end()) {
    throw Error(ErrorCode::kInternal, node.name, "has no packed weight");
  }
  return found->second;
}

void PackedLayers::run(const Node& node, std::span<const float> x, std::span<float> y, std::int64_t tokens,
                       const RunControl& control) const {
  const Layer& layer = layer_of(node);
  const LayerPlan* plan = layer.plan ? &*layer.plan : nullptr;
  const OutputArithmetic output(layer.arithmetic, plan, layer.bias);
  if (layer.weight->is_float32()) {
    multiply_float32(*layer.weight, x, y, tokens, output, control);
    return;
  }
  const PackedInput input(*layer.weight, x, tokens, layer.arithmetic, plan, control);
  multiply_packed(*layer.weight, input, y, tokens, output, control);
}

void PackedLayers::load_weight(const Node& user, const std::string& /*tensor*/, std::int64_t row_begin,
                               std::int64_t rows, std::span<float> target) const {
  const PackedWeight& weight = *layer_of(user).weight;
  const auto columns = static_cast<std::size_t>(weight.columns());
  for (std::int64_t i = 0; i < rows; ++i) {
    weight.decode_row(row_begin + i, target.subspan(static_cast<std::size_t>(i) * columns, columns));
  }
}

std::vector<float> PackedLayers::load_vector(const std::string& tensor) const {
  const auto found = vectors_.find(tensor);
  if (found == vectors_.end()) {
    throw Error(ErrorCode::kInternal, tensor, "is not in memory");
  }
  return found->second;
}

std::int64_t PackedLayers::bytes() const {
  std::int64_t bytes = 0;
  std::set<const PackedWeight*> counted;
  for (const auto& [name, layer] : layers_) {
    bytes += static_cast<std::int64_t>(layer.bias.size() * sizeof(float));
    if (counted.insert(layer.weight.get()).second) {
      bytes += layer.weight->bytes();
    }
  }
  for (const auto& [tensor, vector] : vectors_) {
    bytes += static_cast<std::int64_t>(vector.size() * sizeof(float));
  }
  return bytes;
}

std::int64_t PackedLayers::bytes_without_tables(const Graph& graph) const {
  std::set<const PackedWeight*> tables;
  std::set<const PackedWeight*> multiplied;
  for (const Node& node : graph.nodes()) {
    if (node.op == Op::kLinear || node.op == Op::kEmbedding) {
      (node.op == Op::kLinear ? multiplied : tables).insert(layer_of(node).weight.get());
    }
  }
  std::int64_t result = bytes();
  for (const PackedWeight* table : tables) {
    if (!multiplied.contains(table)) {
      result -= table->bytes();
    }
  }
  return result;
}

}  // namespace diffulex_edge
