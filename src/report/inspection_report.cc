// Shows what an inspection found.

#include <nlohmann/json.hpp>
#include <utility>

#include "diffulex_edge/report.h"
#include "report/text_table.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::ordered_json;

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
    json["delegates"].push_back(
        {{"id", delegate.id}, {"bytes", delegate.bytes}, {"nodes", delegate.nodes}, {"values", delegate.values}});
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
    std::string types;
    for (const auto& [type, count] : delegate.values) {
      types += (types.empty() ? "" : ", ") + std::to_string(count) + " " + type;
    }
    if (!types.empty()) {
      text += "            values passed between them: " + types + "\n";
    }
  }
  return text + "  memory    " + format_bytes(method.arena_bytes) + " planned for inputs and outputs\n";
}

}  // namespace

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
    text += config.family + " (" + config.architecture + "): " + std::to_string(config.num_layers) +
            " layers, hidden " + std::to_string(config.hidden_size) + ", " + std::to_string(config.num_heads) +
            " heads, " + std::to_string(config.num_kv_heads) + " kv heads, head_dim " +
            std::to_string(config.head_dim) + ", intermediate " + std::to_string(config.intermediate_size) +
            ", vocabulary " + std::to_string(config.vocab_size) + ", " + format_count(inspection.parameters()) +
            " parameters\n";
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
