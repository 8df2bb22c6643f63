#include "backends/qnn/package.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/json.h"

namespace diffulex_edge::qnn {
namespace {

using Json = nlohmann::ordered_json;

std::string_view name_of(OnnxDtype dtype) {
  switch (dtype) {
    case OnnxDtype::kFloat:
      return "float32";
    case OnnxDtype::kFloat16:
      return "float16";
    case OnnxDtype::kUint8:
      return "uint8";
    case OnnxDtype::kInt8:
      return "int8";
    case OnnxDtype::kUint16:
      return "uint16";
    case OnnxDtype::kInt32:
      return "int32";
    case OnnxDtype::kInt64:
      return "int64";
    case OnnxDtype::kInt4:
      return "int4";
  }
  return "unknown";
}

Json describe_tensor(const OnnxGraph& graph, OnnxGraph::Id value) {
  return {{"name", graph.name(value)}, {"dtype", name_of(graph.type(value).dtype)}, {"shape", graph.type(value).sizes}};
}

Json describe_tensors(const OnnxGraph& graph, const std::vector<OnnxGraph::Id>& values) {
  Json tensors = Json::array();
  for (const OnnxGraph::Id value : values) {
    tensors.push_back(describe_tensor(graph, value));
  }
  return tensors;
}

}  // namespace

std::string model_file(const OnnxModel& model) { return model.stem + ".onnx"; }

std::string encodings_file(const OnnxModel& model) {
  return model.stem == "model" ? "encodings.json" : model.stem + "_encodings.json";
}

std::string describe_encodings(const std::map<std::string, Encoding>& encodings) {
  Json activations = Json::object();
  for (const auto& [name, encoding] : encodings) {
    const double steps = std::ldexp(1.0, encoding.bits) - 1.0;
    const auto scale = static_cast<double>(encoding.scale);
    activations[name] = Json::array({{{"bitwidth", encoding.bits},
                                      {"dtype", "int"},
                                      {"is_symmetric", "False"},
                                      {"max", (steps - encoding.zero_point) * scale},
                                      {"min", -encoding.zero_point * scale},
                                      {"offset", -encoding.zero_point},
                                      {"scale", scale}}});
  }
  const Json all{{"version", "0.6.1"}, {"activation_encodings", activations}, {"param_encodings", Json::object()}};
  return all.dump(1) + "\n";
}

std::string describe_package(const LoweredModel& lowered, const ManifestFacts& facts) {
  Json manifest{{"format", kManifestFormat}, {"version", 1}};
  for (const auto& [key, value] : facts.notes) {
    manifest[key] = value;
  }
  manifest["data"] = {{"file", kDataFile}, {"bytes", lowered.data.file_bytes()}};
  manifest["models"] = Json::array();  // in order of execution
  for (std::size_t i = 0; i < lowered.models.size(); ++i) {
    const OnnxModel& model = *lowered.models[i];
    Json entry{{"file", model_file(model)},
               {"sha256", facts.model_sha256[i]},
               {"runs_on", model.on_host ? "host" : "npu"},
               {"inputs", describe_tensors(model.graph, model.graph.inputs())},
               {"outputs", describe_tensors(model.graph, model.graph.outputs())}};
    if (!model.encodings.empty()) {
      entry["encodings"] = encodings_file(model);
    }
    manifest["models"].push_back(std::move(entry));
  }
  manifest["compiler"] = facts.compiler.empty() ? Json() : Json(facts.compiler);
  manifest["contexts"] = Json::array();
  for (const PackagedContext& packaged : facts.contexts) {
    const std::filesystem::path folder(packaged.soc->name);
    Json entry{{"soc", packaged.soc->name},
               {"soc_model", packaged.soc->model},
               {"htp_arch", packaged.soc->htp_architecture},
               {"source", packaged.source},
               {"model", (folder / packaged.context.model.filename()).string()},
               {"binary", (folder / packaged.context.binary.filename()).string()},
               {"graph", packaged.context.graph_name},
               {"bytes", packaged.context.bytes},
               {"sha256", packaged.sha256},
               {"compile_seconds", packaged.context.seconds},
               {"compile_peak_rss_bytes", packaged.context.peak_rss_bytes}};
    if (!packaged.program.empty()) {
      entry["program"] = (folder / packaged.program).string();
    }
    manifest["contexts"].push_back(std::move(entry));
  }
  return manifest.dump(2) + "\n";
}

bool is_package(const std::filesystem::path& folder) {
  return has_json_format(folder / kManifestFile, kManifestFormat, kMaxManifestBytes);
}

}  // namespace diffulex_edge::qnn
