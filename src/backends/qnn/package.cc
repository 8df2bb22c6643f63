#include "backends/qnn/package.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "backends/executorch/language_model_methods.h"
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

// Integers stand for (q - zero_point) * scale.
Json describe_tensor(const OnnxModel& model, OnnxGraph::Id value) {
  const OnnxType& type = model.graph.type(value);
  Json tensor{{"name", model.graph.name(value)}, {"dtype", name_of(type.dtype)}, {"shape", type.sizes}};
  if (const auto found = model.integers.find(value); found != model.integers.end()) {
    tensor["scale"] = found->second.scale;
    tensor["zero_point"] = found->second.zero_point;
  }
  return tensor;
}

Json describe_tensors(const OnnxModel& model, const std::vector<OnnxGraph::Id>& values) {
  Json tensors = Json::array();
  for (const OnnxGraph::Id value : values) {
    tensors.push_back(describe_tensor(model, value));
  }
  return tensors;
}

Json describe_caches(const OnnxModel& model) {
  Json caches = Json::array();
  for (const CacheTensors& cache : model.caches) {
    caches.push_back({{"past", model.graph.name(cache.past)},
                      {"new", model.graph.name(cache.fresh)},
                      {"token_axis", cache.token_axis}});
  }
  return caches;
}

Json describe_cache(const LoweredModel& lowered, const CacheSettings& cache) {
  const MaskValues mask = lowered.mask.value_or(MaskValues());
  return {{"tokens", cache.tokens},
          {"block_tokens", cache.block_sizes},
          {"kind", cache.is_bidirectional ? "approximate" : "exact"},
          {"dtype", cache_dtype(lowered)},
          {"bytes", cache_bytes(lowered)},
          {"mask", {{"hidden", mask.hidden}, {"visible", mask.visible}}}};
}

// The models of one step size: each layer's keys and values once.
template <typename Use>
void for_each_cache(const LoweredModel& lowered, const Use& use) {
  for (const auto& model : lowered.models) {
    if (model->step_tokens == lowered.models.front()->step_tokens) {
      for (const CacheTensors& cache : model->caches) {
        use(model->graph.type(cache.past));
      }
    }
  }
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

std::int64_t cache_bytes(const LoweredModel& lowered) {
  std::int64_t bytes = 0;
  for_each_cache(lowered, [&](const OnnxType& type) { bytes += stored_bytes(type); });
  return bytes;
}

std::string cache_dtype(const LoweredModel& lowered) {
  std::string name;
  for_each_cache(lowered, [&](const OnnxType& type) { name = name_of(type.dtype); });
  return name;
}

std::string describe_package(const LoweredModel& lowered, const ManifestFacts& facts) {
  Json manifest{{"format", kManifestFormat}, {"version", 1}};
  for (const auto& [key, value] : facts.notes) {
    manifest[key] = value;
  }
  manifest["data"] = {{"file", kDataFile}, {"bytes", lowered.data.file_bytes()}};
  if (facts.cache) {
    manifest["cache"] = describe_cache(lowered, *facts.cache);
    manifest["language_model"] = Json::parse(executorch::methods_as_json(facts.language_model));
  }
  manifest["models"] = Json::array();  // in order of execution
  for (std::size_t i = 0; i < lowered.models.size(); ++i) {
    const OnnxModel& model = *lowered.models[i];
    Json entry{{"file", model_file(model)},
               {"sha256", facts.model_sha256[i]},
               {"runs_on", model.on_host ? "host" : "npu"},
               {"inputs", describe_tensors(model, model.graph.inputs())},
               {"outputs", describe_tensors(model, model.graph.outputs())}};
    if (model.step_tokens > 0) {
      entry["step_tokens"] = model.step_tokens;
      entry["caches"] = describe_caches(model);
    }
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
    if (packaged.shares_binary) {
      entry["shares_binary"] = true;
    }
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
