// Looks into checkpoints and artefacts, and shows what it found.

#include "diffulex_edge/inspection.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "backends/xnnpack/program_reader.h"
#include "checkpoint/stored_weight.h"
#include "core/mapped_file.h"
#include "core/parallel.h"
#include "core/sha256.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/report.h"
#include "report/text_table.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// The tensors' bytes, in the order of Inspection::tensors, hashed on all cores.
void add_hashes(std::vector<InspectedTensor>& tensors, const std::vector<std::span<const std::byte>>& bytes,
                const std::vector<const MappedFile*>& files, const RunControl& control) {
  parallel_for(tensors.size(), control, [&](std::size_t i, std::size_t) {
    tensors[i].sha256 = sha256_hex(bytes[i]);
    files[i]->release(bytes[i]);
  });
}

InspectedTensor describe(const TensorView& view) {
  return {.name = view.name,
          .type = std::string(to_string(view.dtype)),
          .shape = view.shape,
          .bytes = static_cast<std::int64_t>(view.bytes.size()),
          .offset = view.bytes.data() - view.file->bytes().data(),
          .file = view.file->path().filename().string()};
}

Inspection inspect_checkpoint(const fs::path& path, const InspectOptions& options, const RunControl& control) {
  const Checkpoint checkpoint(path);
  Inspection inspection{.kind = fs::is_directory(path) ? "checkpoint" : "safetensors", .path = path};
  inspection.file_bytes = checkpoint.total_bytes();
  if (fs::is_directory(path)) {
    inspection.config = read_model_config(path);
  }
  std::vector<std::span<const std::byte>> bytes;
  std::vector<const MappedFile*> files;
  for (const auto& [name, view] : checkpoint.tensors()) {
    InspectedTensor tensor = describe(view);
    if (view.dtype == DType::kU8 && checkpoint.find(name + "_scale") != nullptr) {
      const StoredWeight stored = find_stored_weight(checkpoint, name);
      tensor.type = "I4";
      tensor.shape = {stored.rows, stored.columns};
      tensor.group_size = stored.format.group_size;
    }
    inspection.tensors.push_back(std::move(tensor));
    bytes.push_back(view.bytes);
    files.push_back(view.file);
  }
  if (options.hashes) {
    add_hashes(inspection.tensors, bytes, files, control);
  }
  return inspection;
}

Inspection inspect_program(const MappedFile& file, const InspectOptions& options, const RunControl& control) {
  executorch::ProgramContents contents = executorch::read_program(file.bytes(), file.path().string());
  Inspection inspection{.kind = "executorch_program",
                        .path = file.path(),
                        .file_bytes = static_cast<std::int64_t>(file.bytes().size()),
                        .methods = std::move(contents.methods),
                        .tensors = std::move(contents.weights)};
  if (options.hashes) {
    std::vector<std::span<const std::byte>> bytes;
    for (const InspectedTensor& tensor : inspection.tensors) {
      bytes.push_back(file.bytes().subspan(static_cast<std::size_t>(tensor.offset), static_cast<std::size_t>(tensor.bytes)));
    }
    add_hashes(inspection.tensors, bytes, std::vector<const MappedFile*>(bytes.size(), &file), control);
    inspection.sha256 = sha256_hex(file.bytes());
  }
  return inspection;
}

Json value_json(const InspectedValue& value) {
  return {{"dtype", value.type}, {"sizes", value.sizes}, {"dynamic", value.dynamic}};
}

Json method_json(const InspectedMethod& method) {
  Json json{{"name", method.name}, {"inputs", Json::array()}, {"outputs", Json::array()}};
  for (const InspectedValue& value : method.inputs) {
    json["inputs"].push_back(value_json(value));
  }
  for (const InspectedValue& value : method.outputs) {
    json["outputs"].push_back(value_json(value));
  }
  json["operators"] = method.operators;
  json["delegates"] = Json::array();
  for (const InspectedDelegate& delegate : method.delegates) {
    json["delegates"].push_back({{"id", delegate.id}, {"bytes", delegate.bytes}, {"nodes", delegate.nodes}});
  }
  json["arena_bytes"] = method.arena_bytes;
  return json;
}

Json config_json(const ModelConfig& config) {
  return {{"family", config.family},
          {"architecture", config.architecture},
          {"hidden_size", config.hidden_size},
          {"num_layers", config.num_layers},
          {"num_heads", config.num_heads},
          {"num_kv_heads", config.num_kv_heads},
          {"head_dim", config.head_dim},
          {"intermediate_size", config.intermediate_size},
          {"vocab_size", config.vocab_size},
          {"max_positions", config.max_positions},
          {"block_length", config.block_length},
          {"tie_word_embeddings", config.tie_word_embeddings}};
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t size : shape) {
    text += (text.empty() ? "" : " x ") + std::to_string(size);
  }
  return text.empty() ? "scalar" : text;
}

std::string value_text(const InspectedValue& value) {
  return value.type + " [" + shape_text(value.sizes) + "]" + (value.dynamic ? " (upper bound)" : "");
}

std::string method_text(const InspectedMethod& method) {
  std::string text = "method " + method.name + "\n";
  for (const InspectedValue& value : method.inputs) {
    text += "  input     " + value_text(value) + "\n";
  }
  for (const InspectedValue& value : method.outputs) {
    text += "  output    " + value_text(value) + "\n";
  }
  for (const std::string& op : method.operators) {
    text += "  operator  " + op + "\n";
  }
  for (const InspectedDelegate& delegate : method.delegates) {
    std::int64_t nodes = 0;
    for (const auto& [kind, count] : delegate.nodes) {
      nodes += count;
    }
    text += "  delegate  " + delegate.id + ", " + std::to_string(nodes) + " nodes, " + format_count(delegate.bytes) +
            " bytes\n";
    for (const auto& [kind, count] : delegate.nodes) {
      text += "            " + std::to_string(count) + " x " + kind + "\n";
    }
  }
  return text + "  memory    " + format_bytes(method.arena_bytes) + " planned for inputs and outputs\n";
}

}  // namespace

std::int64_t Inspection::parameters() const {
  std::int64_t total = 0;
  for (const InspectedTensor& tensor : tensors) {
    if (!tensor.name.ends_with("_scale")) {
      total += element_count(static_shape(tensor.shape));
    }
  }
  return total;
}

Inspection inspect(const fs::path& path, const InspectOptions& options, const RunControl& control) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    const MappedFile file(path);
    if (executorch::is_program(file.bytes())) {
      return inspect_program(file, options, control);
    }
    const bool tensors = file.bytes().size() > 8 && file.bytes()[8] == std::byte{'{'};
    if (!tensors && path.extension() != ".safetensors") {
      throw Error(ErrorCode::kBadFile, path.string(), "is neither a safetensors file nor an ExecuTorch program");
    }
  }
  return inspect_checkpoint(path, options, control);
}

std::string to_json(const Inspection& inspection) {
  const bool program = inspection.kind == "executorch_program";
  Json json{{"kind", inspection.kind}, {"path", inspection.path.string()}};
  json[program ? "file_bytes" : "total_bytes"] = inspection.file_bytes;
  if (!inspection.sha256.empty()) {
    json["sha256"] = inspection.sha256;
  }
  if (inspection.config) {
    json["config"] = config_json(*inspection.config);
  }
  if (program) {
    json["methods"] = Json::array();
    for (const InspectedMethod& method : inspection.methods) {
      json["methods"].push_back(method_json(method));
    }
  } else {
    json["parameters"] = inspection.parameters();
  }
  Json& tensors = json[program ? "weights" : "tensors"] = Json::array();
  for (const InspectedTensor& tensor : inspection.tensors) {
    Json entry{{"name", tensor.name},
               {program ? "datatype" : "dtype", tensor.type},
               {"shape", tensor.shape},
               {"bytes", tensor.bytes},
               {"offset", tensor.offset}};
    if (program || tensor.group_size != 0) {
      entry["group_size"] = tensor.group_size;
    }
    if (!program) {
      entry["file"] = tensor.file;
    }
    if (!tensor.sha256.empty()) {
      entry["sha256"] = tensor.sha256;
    }
    tensors.push_back(std::move(entry));
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string to_text(const Inspection& inspection) {
  std::string text = inspection.path.string() + ": " + inspection.kind + ", " + format_count(inspection.file_bytes) +
                     " bytes (" + format_bytes(inspection.file_bytes) + ")\n";
  if (!inspection.sha256.empty()) {
    text += "sha256 " + inspection.sha256 + "\n";
  }
  if (inspection.config) {
    const ModelConfig& config = *inspection.config;
    text += config.family + " (" + config.architecture + "): " + std::to_string(config.num_layers) + " layers, hidden " +
            std::to_string(config.hidden_size) + ", " + std::to_string(config.num_heads) + " heads, " +
            std::to_string(config.num_kv_heads) + " kv heads, head_dim " + std::to_string(config.head_dim) +
            ", intermediate " + std::to_string(config.intermediate_size) + ", vocabulary " +
            std::to_string(config.vocab_size) + ", " + format_count(inspection.parameters()) + " parameters\n";
  }
  for (const InspectedMethod& method : inspection.methods) {
    text += "\n" + method_text(method);
  }
  TextTable table({"tensor", "type", "shape", "group", "bytes", "sha256"});
  for (const InspectedTensor& tensor : inspection.tensors) {
    table.add({tensor.name, tensor.type, shape_text(tensor.shape),
               tensor.group_size == 0 ? "" : std::to_string(tensor.group_size), std::to_string(tensor.bytes),
               tensor.sha256.substr(0, 16)});
  }
  return text + "\n" + table.render();
}

}  // namespace diffulex_edge
