#include "quant/quantized_checkpoint.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "core/output_file.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/quantization.h"
#include "model_files/model_files.h"
#include "quant/weight_stream.h"
#include "tokenizer/tokenizer_files.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

// The plan of each tensor. A tied weight has several uses but one place in the file.
std::map<std::string, const LayerPlan*> plan_by_tensor(const QuantizationPlan& plan) {
  std::map<std::string, const LayerPlan*> tensors;
  for (const LayerPlan& layer : plan.layers) {
    const auto [position, inserted] = tensors.emplace(layer.tensor, &layer);
    if (!inserted && position->second->format != layer.format) {
      throw Error(ErrorCode::kInvalidArgument, layer.tensor,
                  "is shared by " + position->second->layer + " (" + to_string(position->second->format) + ") and " +
                      layer.layer + " (" + to_string(layer.format) + "), and a checkpoint stores it once",
                  "give --embedding-dtype and --head-dtype the same value");
    }
  }
  return tensors;
}

bool is_converted(const LayerPlan& layer) {
  return layer.dtype != QuantizationDtype::FP32 && !layer.source.is_quantized();
}

DType stored_dtype(const LayerPlan& layer) {
  const std::optional<DType> dtype = format_row(layer.dtype).checkpoint_dtype;
  if (!dtype) {
    throw Error(ErrorCode::kUnsupported, layer.layer,
                "a checkpoint can't hold " + std::string(format_row(layer.dtype).title) +
                    ": its tables are fitted by the export",
                "export the original model with --dtype " + std::string(to_string(layer.dtype)));
  }
  return *dtype;
}

void add_converted(std::vector<TensorToWrite>& tensors, const LayerPlan& layer) {
  const WeightFormat& format = layer.format;
  const DType dtype = stored_dtype(layer);
  if (!format.fills_bytes(layer.columns)) {
    throw Error(ErrorCode::kUnsupported, layer.layer, "INT4 rows of odd length can't be stored in a checkpoint");
  }
  const std::int64_t width = format.row_bytes(layer.columns) / static_cast<std::int64_t>(byte_size(dtype));
  tensors.push_back({.name = layer.tensor, .dtype = dtype, .shape = {layer.rows, width}});
  if (format.is_quantized()) {
    TensorToWrite scales{.name = layer.tensor + "_scale", .shape = {layer.rows}};
    if (format.granularity == Granularity::kGroup) {
      scales.dtype = DType::kBF16;
      scales.shape.push_back(format.scales_per_row(layer.columns));
    }
    tensors.push_back(std::move(scales));
  }
}

// What is not converted keeps its format, and so its bytes.
StreamJob make_job(const Model& model, const QuantizationPlan& plan, const LayerPlan& layer, const WeightFormat& format,
                   OutputFile& file, std::int64_t values_offset, std::int64_t scales_offset) {
  StreamJob job{.source = find_stored_weight(*model.checkpoint, layer.tensor),
                .format = format,
                .method = layer.method,
                .saturate_fp16 = plan.config.saturate_fp16};
  const std::int64_t value_row = format.row_bytes(layer.columns);
  const std::int64_t scale_row = format.scales_per_row(layer.columns) * format.scale_bytes();
  job.sink = [=, &file](const EncodedTile& tile) {
    file.write(values_offset + tile.row_begin * value_row, tile.values);
    if (!tile.scales.empty()) {
      file.write(scales_offset + tile.row_begin * scale_row, tile.scales);
    }
  };
  return job;
}

// Ranges as [min, max]. A float32 becomes a double, which JSON has with as many digits as bring it back.
nlohmann::ordered_json describe(const CalibrationFindings& findings) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::object();
  const auto bounds = [](const ActivationRange& range) { return nlohmann::ordered_json{range.min, range.max}; };
  for (const auto& [layer, activations] : findings.layers) {
    layers[layer] = {{"input", bounds(activations.input)}, {"output", bounds(activations.output)}};
  }
  return layers;
}

void write_config(const Model& model, const QuantizationPlan& plan, const fs::path& path) {
  const QuantizationConfig& config = plan.config;
  PythonJson json(document_text(model.path / "config.json"));
  nlohmann::ordered_json& document = json.document;
  if (model.config.mask_token_id) {
    document["mask_token_id"] = *model.config.mask_token_id;  // which the caller may have named
  }
  nlohmann::ordered_json& note = document["quantization_config"];
  note = {{"quant_method", "diffulex_edge"},
          {"dtype", to_string(config.dtype)},
          {"mode", to_string(config.mode)},
          {"method", to_string(config.method)},
          {"exclude_layers", config.exclude_layers}};
  if (format_row(config.dtype).takes_groups) {
    note["group_size"] = config.group_size;
  }
  for (const auto& [layer, format] : config.layer_formats) {
    note["layer_formats"][layer] = to_string(format);
  }
  if (config.mode == QuantizationMode::STATIC && !plan.findings.layers.empty()) {
    note["activations"] = describe(plan.findings);
  }
  if (config.embedding_dtype) {
    note["embedding_dtype"] = to_string(*config.embedding_dtype);
  }
  if (config.head_dtype) {
    note["head_dtype"] = to_string(*config.head_dtype);
  }
  write_file(path, json.dump() + "\n");
}

// What is copied is not looked at, but for the text that Git LFS leaves in the place of a file.
void refuse_lfs_pointer(const fs::path& path) {
  std::error_code error;
  if (fs::file_size(path, error) > 0) {
    static_cast<void>(MappedFile(path));
  }
}

void copy_tokenizer(const fs::path& source, const fs::path& target) {
  std::vector<std::string> names = tokenizer_file_names();
  names.insert(names.end(), {"generation_config.json", "chat_template.jinja"});
  for (const std::string& name : names) {
    const fs::path path = source / name;
    const bool is_file = document_file(path) == path;
    std::error_code ignored;
    if (!has_document(path) || (is_file && !fs::is_regular_file(path, ignored))) {
      continue;
    }
    if (is_file) {
      refuse_lfs_pointer(path);
    }
    copy_document(path, target / name);
  }
}

}  // namespace

void check_storable(const QuantizationPlan& plan) {
  std::vector<TensorToWrite> unused;
  for (const auto& [name, layer] : plan_by_tensor(plan)) {
    if (is_converted(*layer)) {
      add_converted(unused, *layer);
    }
  }
}

QuantizedCheckpointWriter::QuantizedCheckpointWriter(const Model& model, const QuantizationPlan& plan,
                                                     const fs::path& target, const std::set<std::string>& rewritten)
    : model_(model), plan_(plan), folder_(std::make_unique<OutputFolder>(target)), rewritten_(rewritten) {
  std::vector<TensorToWrite> tensors;
  std::set<std::string> copied;  // byte for byte
  for (const auto& [name, layer] : plan_by_tensor(plan)) {
    if (rewritten.contains(name)) {
      tensors.push_back({.name = name, .dtype = DType::kF32, .shape = model.checkpoint->at(name).shape});
    } else if (is_converted(*layer)) {
      add_converted(tensors, *layer);
      converted_.emplace(name, layer);
    } else {
      kept_.emplace(name, layer);
      copied.insert(name);
      if (layer->source.is_quantized()) {
        copied.insert(name + "_scale");
      }
    }
  }
  for (const std::string& name : copied) {
    const TensorView& view = model.checkpoint->at(name);
    tensors.push_back({.name = name, .dtype = view.dtype, .shape = view.shape});
  }
  const std::string head = lay_out_safetensors(tensors, file_bytes_);
  for (const TensorToWrite& tensor : tensors) {
    offsets_[tensor.name] = tensor.offset;
  }
  file_ = std::make_unique<OutputFile>(folder_->path() / "model.safetensors", file_bytes_);
  file_->write(0, std::as_bytes(std::span(head)));
}

QuantizedCheckpointWriter::~QuantizedCheckpointWriter() = default;

void QuantizedCheckpointWriter::write_rounded(const std::string& tensor, const RoundedWeight& weight) {
  const auto found = converted_.find(tensor);
  if (found == converted_.end()) {
    throw Error(ErrorCode::kInternal, tensor, "is not a weight that the plan quantizes, or was written before");
  }
  file_->write(offsets_.at(tensor), weight.values);
  file_->write(offsets_.at(tensor + "_scale"), weight.scales);
  converted_.erase(found);
}

void QuantizedCheckpointWriter::write_floats(const std::string& tensor, std::span<const float> values) {
  if (rewritten_.erase(tensor) == 0) {
    throw Error(ErrorCode::kInternal, tensor, "was not announced, or was written before");
  }
  file_->write(offsets_.at(tensor), std::as_bytes(values));
}

std::int64_t QuantizedCheckpointWriter::finish(const RunControl& control) {
  if (!rewritten_.empty()) {
    throw Error(ErrorCode::kInternal, *rewritten_.begin(), "was announced and not written");
  }
  std::vector<StreamJob> jobs;
  const auto add = [&](const LayerPlan& layer, const WeightFormat& format) {
    const std::int64_t scales_offset = format.is_quantized() ? offsets_.at(layer.tensor + "_scale") : 0;
    jobs.push_back(make_job(model_, plan_, layer, format, *file_, offsets_.at(layer.tensor), scales_offset));
  };
  for (const auto& [name, layer] : converted_) {
    add(*layer, layer->format);
  }
  for (const auto& [name, layer] : kept_) {
    add(*layer, layer->source);
  }
  stream_weights(jobs, control);
  file_->flush(control.stop);
  file_->commit();
  if (!model_.path.empty()) {
    write_config(model_, plan_, folder_->path() / "config.json");
    copy_tokenizer(model_.path, folder_->path());
  }
  folder_->commit();
  return file_bytes_;
}

std::int64_t write_quantized_checkpoint(const Model& model, const QuantizationPlan& plan, const fs::path& target,
                                        const RunControl& control) {
  return QuantizedCheckpointWriter(model, plan, target).finish(control);
}

}  // namespace diffulex_edge
