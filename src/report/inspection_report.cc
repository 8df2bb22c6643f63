// Shows what an inspection found.

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/printable.h"
#include "diffulex_edge/report.h"
#include "report/description.h"
#include "report/text_table.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kTextColumn = 10;  // behind words such as "input"

Json value_json(const InspectedValue& value) {
  return {{"dtype", value.dtype}, {"shape", value.shape}, {"dynamic", value.dynamic}};
}

Json features_json(const std::vector<InspectedFeature>& features) {
  Json json = Json::array();
  for (const InspectedFeature& feature : features) {
    Json entry{{"name", feature.name}, {"dtype", feature.dtype}, {"shape", feature.shape}};
    if (!feature.enumerated_shapes.empty()) {
      entry["enumerated_shapes"] = feature.enumerated_shapes;
    }
    if (!feature.shape_range.empty()) {
      entry["shape_range"] = feature.shape_range;  // pairs: least, most; -1: no limit
    }
    json.push_back(std::move(entry));
  }
  return json;
}

void add_features(const InspectedFeatures& features, Json& json) {
  json["inputs"] = features_json(features.inputs);
  json["outputs"] = features_json(features.outputs);
  if (!features.states.empty()) {
    json["states"] = features_json(features.states);
  }
}

Json models_json(const std::vector<InspectedModel>& models) {
  Json json = Json::array();
  for (const InspectedModel& model : models) {
    Json entry{{"type", model.type}, {"specification_version", model.specification_version}};
    if (!model.name.empty()) {
      entry["name"] = model.name;
    }
    if (!model.description.empty()) {
      entry["description"] = model.description;
    }
    add_features(model.features, entry);
    entry["metadata"] = model.metadata;
    entry["functions"] = Json::array();
    for (const InspectedFunction& function : model.functions) {
      Json described{{"name", function.name}, {"opset", function.opset}, {"operations", function.operations}};
      if (!function.features.inputs.empty() || !function.features.outputs.empty()) {
        add_features(function.features, described);
      }
      entry["functions"].push_back(std::move(described));
    }
    if (!model.models.empty()) {
      entry["models"] = models_json(model.models);
    }
    json.push_back(std::move(entry));
  }
  return json;
}

Json files_json(const std::vector<InspectedFile>& files) {
  Json json = Json::array();
  for (const InspectedFile& file : files) {
    json.push_back({{"path", file.path}, {"bytes", file.bytes}});
  }
  return json;
}

Json delegate_json(const InspectedDelegate& delegate) {
  Json json{{"id", delegate.id}, {"bytes", delegate.bytes}, {"nodes", delegate.nodes}, {"values", delegate.values}};
  if (!delegate.compile_specs.empty()) {
    json["compile_specs"] = delegate.compile_specs;
  }
  if (!delegate.files.empty()) {
    json["files"] = files_json(delegate.files);
    json["models"] = models_json(delegate.models);
  }
  return json;
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
    json["delegates"].push_back(delegate_json(delegate));
  }
  json["arena_bytes"] = method.arena_bytes;
  return json;
}

Json constant_json(const InspectedConstant::Value& value) {
  return std::visit([](const auto& held) { return Json(held); }, value);
}

Json metadata_json(const std::vector<InspectedConstant>& metadata) {
  Json json = Json::object();
  for (const InspectedConstant& constant : metadata) {
    Json& entry = json[constant.name] = Json::array();
    for (const InspectedConstant::Value& value : constant.values) {
      entry.push_back(constant_json(value));
    }
    if (!constant.is_list) {
      entry = constant_json(constant.values.front());
    }
  }
  return json;
}

Json experts_json(const ExpertConfig& experts) {
  return {{"count", experts.count},
          {"per_token", experts.route.experts_per_token},
          {"intermediate_size", experts.intermediate_size},
          {"shared_intermediate_size", experts.shared_intermediate_size},
          {"groups", experts.route.groups},
          {"groups_per_token", experts.route.groups_per_token}};
}

// ", experts 64 (8 a token) of intermediate 1024"
std::string experts_text(const ExpertConfig& experts) {
  if (experts.count == 0) {
    return {};
  }
  std::string text = ", experts " + std::to_string(experts.count) + " (" +
                     std::to_string(experts.route.experts_per_token) + " a token) of intermediate " +
                     std::to_string(experts.intermediate_size);
  if (experts.shared_intermediate_size > 0) {
    text += " and a shared one of " + std::to_string(experts.shared_intermediate_size);
  }
  return text;
}

Json config_json(const ModelConfig& config) {
  Json json = {{"family", config.family},
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
  if (config.experts.count > 0) {
    json["experts"] = experts_json(config.experts);
  }
  return json;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t size : shape) {
    text += (text.empty() ? "" : " x ") + std::to_string(size);
  }
  return text.empty() ? "scalar" : text;
}

std::string value_text(const InspectedValue& value) {
  return value.dtype + " [" + shape_text(value.shape) + "]" + (value.dynamic ? " (upper bound)" : "");
}

// Every line moved to the right.
std::string indented(const std::string& text, std::size_t columns) {
  std::string result;
  bool at_begin = true;
  for (const char c : text) {
    if (at_begin) {
      result.append(columns, ' ');
    }
    result += c;
    at_begin = c == '\n';
  }
  return result;
}

std::string feature_text(const InspectedFeature& feature) {
  std::string text = feature.name + ": " + feature.dtype;
  if (!feature.shape.empty()) {
    text += " [" + shape_text(feature.shape) + "]";
  }
  for (std::size_t i = 0; i < feature.enumerated_shapes.size(); ++i) {
    text += (i == 0 ? ", one of [" : " [") + shape_text(feature.enumerated_shapes[i]) + "]";
  }
  for (std::size_t i = 0; i < feature.shape_range.size(); ++i) {
    const auto& [least, most] = feature.shape_range[i];
    text += (i == 0 ? ", range [" : " x ") + std::to_string(least);
    if (most != least) {
      text += ".." + (most < 0 ? "any" : std::to_string(most));
    }
  }
  return text + (feature.shape_range.empty() ? "\n" : "]\n");
}

std::string features_text(const InspectedFeatures& features) {
  std::string text;
  for (const InspectedFeature& feature : features.inputs) {
    text += "input     " + feature_text(feature);
  }
  for (const InspectedFeature& feature : features.outputs) {
    text += "output    " + feature_text(feature);
  }
  for (const InspectedFeature& feature : features.states) {
    text += "state     " + feature_text(feature);
  }
  return text;
}

std::string counts_text(const std::map<std::string, std::int64_t>& counts) {
  std::string text;
  for (const auto& [kind, count] : counts) {
    text += std::to_string(count) + " x " + kind + "\n";
  }
  return text;
}

std::string entry_text(const std::string& key, const std::string& value) { return key + " = " + value + "\n"; }

std::int64_t total(const std::map<std::string, std::int64_t>& counts) {
  std::int64_t sum = 0;
  for (const auto& [kind, count] : counts) {
    sum += count;
  }
  return sum;
}

std::string models_text(const std::vector<InspectedModel>& models) {
  std::string text;
  for (const InspectedModel& model : models) {
    text += "model " + model.name + (model.name.empty() ? "" : ": ") + model.type + ", specification version " +
            std::to_string(model.specification_version) + "\n";
    std::string inner = model.description.empty() ? "" : model.description + "\n";
    inner += features_text(model.features);
    for (const auto& [key, value] : model.metadata) {
      inner += "metadata  " + entry_text(key, value);
    }
    for (const InspectedFunction& function : model.functions) {
      inner += "function  " + function.name + " (" + function.opset + "), " + format_count(total(function.operations)) +
               " operations\n";
      inner += indented(features_text(function.features) + counts_text(function.operations), kTextColumn);
    }
    text += indented(inner + models_text(model.models), 2);
  }
  return text;
}

std::string files_text(const std::vector<InspectedFile>& files) {
  std::string text;
  for (const InspectedFile& file : files) {
    text += "file      " + file.path + ", " + format_count(file.bytes) + " bytes\n";
  }
  return text;
}

std::string method_text(const InspectedMethod& method) {
  std::string text = "method " + method.name + "\n";
  for (const InspectedValue& value : method.inputs) {
    text += "  input     " + value_text(value) + "\n";
  }
  for (const InspectedValue& value : method.outputs) {
    text += "  output    " + value_text(value) + "\n";
  }
  for (const std::string& op : counted(method.operators)) {
    text += "  operator  " + op + "\n";
  }
  for (const InspectedDelegate& delegate : method.delegates) {
    const std::int64_t nodes = total(delegate.nodes);
    text += "  delegate  " + delegate.id + ", " + (nodes == 0 ? "" : std::to_string(nodes) + " nodes, ") +
            format_count(delegate.bytes) + " bytes\n";
    std::string inner;
    for (const auto& [key, value] : delegate.compile_specs) {
      inner += entry_text(key, value);
    }
    inner += files_text(delegate.files) + models_text(delegate.models) + counts_text(delegate.nodes);
    text += indented(inner, kTextColumn + 2);
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

std::string metadata_text(const std::vector<InspectedConstant>& metadata) {
  std::string text;
  for (const InspectedConstant& constant : metadata) {
    std::string values;
    for (const InspectedConstant::Value& value : constant.values) {
      const auto* word = std::get_if<std::string>(&value);
      values += (values.empty() ? "" : ", ") + (word != nullptr ? *word : constant_json(value).dump());
    }
    text += "metadata  " + entry_text(constant.name, values);
  }
  return text;
}

Json bundle_json(const InspectedBundle& bundle) {
  return {{"path", bundle.path.string()},
          {"backend", bundle.backend},
          {"files", files_json(bundle.files)},
          {"generation", Json::parse(bundle.generation)}};
}

std::string bundle_text(const InspectedBundle& bundle) {
  std::string text = bundle.path.string() + ": a bundle for " + bundle.backend + "\n" + files_text(bundle.files);
  const Json generation = Json::parse(bundle.generation);
  for (const char* part : {"model", "decoding"}) {
    for (const auto& [key, value] : generation[part].items()) {
      text += std::string(part) + " " + key + " " + value.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    }
  }
  return text + "\n";
}

}  // namespace

std::string to_json(const Inspection& inspection) {
  const bool program = inspection.kind == "executorch_program";
  const bool package = !inspection.models.empty();
  Json json{{"kind", inspection.kind}, {"path", inspection.path.string()}};
  if (inspection.bundle) {
    json["bundle"] = bundle_json(*inspection.bundle);
  }
  json["file_bytes"] = inspection.file_bytes;
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
    json["metadata"] = metadata_json(inspection.metadata);
  } else if (package) {
    json["files"] = files_json(inspection.files);
    json["models"] = models_json(inspection.models);
  } else {
    json["parameters"] = inspection.parameters();
  }
  Json& tensors = json["tensors"] = Json::array();
  for (const InspectedTensor& tensor : inspection.tensors) {
    Json entry{{"name", tensor.name},
               {"dtype", tensor.dtype},
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
  std::string text = inspection.bundle ? bundle_text(*inspection.bundle) : std::string();
  text += inspection.path.string() + ": " + inspection.kind + ", " + format_count(inspection.file_bytes) + " bytes (" +
          format_bytes(inspection.file_bytes) + ")\n";
  if (!inspection.sha256.empty()) {
    text += "sha256 " + inspection.sha256 + "\n";
  }
  if (inspection.config) {
    const ModelConfig& config = *inspection.config;
    text += config.family + " (" + config.architecture + "): " + std::to_string(config.num_layers) +
            " layers, hidden " + std::to_string(config.hidden_size) + ", " + std::to_string(config.num_heads) +
            " heads, " + std::to_string(config.num_kv_heads) + " kv heads, head_dim " +
            std::to_string(config.head_dim) + ", intermediate " + std::to_string(config.intermediate_size) +
            experts_text(config.experts) + ", vocabulary " + std::to_string(config.vocab_size) + ", " +
            format_count(inspection.parameters()) + " parameters\n";
  }
  for (const InspectedMethod& method : inspection.methods) {
    text += "\n" + method_text(method);
  }
  if (!inspection.metadata.empty()) {
    text += "\n" + metadata_text(inspection.metadata);
  }
  if (!inspection.models.empty()) {
    text += files_text(inspection.files) + "\n" + models_text(inspection.models);
  }
  TextTable table({"tensor", "type", "shape", "group", "bytes", "sha256"});
  for (const InspectedTensor& tensor : inspection.tensors) {
    table.add({tensor.name, tensor.dtype, shape_text(tensor.shape),
               tensor.group_size == 0 ? "" : std::to_string(tensor.group_size), std::to_string(tensor.bytes),
               tensor.sha256.substr(0, 16)});
  }
  text += "\n" + table.render();
  return printable_lines(text);
}

}  // namespace diffulex_edge
