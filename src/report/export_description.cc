#include "report/export_description.h"
#include "quant/affine_scale.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::ordered_json;

// A static activation.
Json describe(const ActivationRange& range, int bits) {
  const AffineScale affine = affine_scale(range, bits);
  return {{"min", range.min}, {"max", range.max}, {"scale", affine.scale}, {"zero_point", affine.zero_point}};
}

}  // namespace

Json describe(const LayerPlan& plan) {
  Json json{{"layer", plan.layer},
            {"tensor", plan.tensor},
            {"role", to_string(plan.role)},
            {"rows", plan.rows},
            {"columns", plan.columns},
            {"source", to_string(plan.source)},
            {"format", to_string(plan.format)},
            {"dtype", to_string(plan.dtype)},
            {"excluded", plan.excluded}};
  if (plan.format.is_quantized() && !plan.source.is_quantized()) {
    json["method"] = to_string(plan.method);
  }
  if (plan.role == LayerRole::kLinear) {
    json["arithmetic"] = to_string(plan.arithmetic);
  }
  if (plan.activations) {
    json["activations"] = {{"input", describe(plan.activations->input, plan.arithmetic.bits)},
                           {"output", describe(plan.activations->output, plan.arithmetic.bits)}};
  }
  return json;
}

Json describe(const StoredLayer& layer) {
  Json json = describe(layer.plan);
  json["kernel"] = layer.kernel;
  json["stored_bytes"] = layer.stored_bytes;
  return json;
}

Json describe(const Placement& placement) {
  Json json{{"npu", placement.npu}, {"host", placement.host}, {"binaries", Json::array()}};
  for (const CompiledBinary& binary : placement.binaries) {
    json["binaries"].push_back({{"soc", binary.soc},
                                {"source", binary.source},
                                {"bytes", binary.bytes},
                                {"seconds", binary.seconds},
                                {"peak_rss_bytes", binary.peak_rss_bytes}});
  }
  return json;
}

Json describe(const ExportMetadata& metadata) {
  Json json{{"backend", metadata.backend}, {"method", metadata.method},
            {"seq_len", metadata.seq_len}, {"activation_dtype", metadata.activation_dtype},
            {"dry_run", metadata.dry_run}, {"file_bytes", metadata.file_bytes}};
  if (metadata.bundle_bytes) {
    json["bundle_bytes"] = *metadata.bundle_bytes;
  }
  add_sizes(json, metadata);
  json["seconds"] = metadata.seconds;
  json["peak_rss_bytes"] = metadata.peak_rss_bytes;
  json["operators_outside_delegate"] = metadata.operators_outside_delegate;
  if (metadata.cache) {
    json["cache"] = {
        {"tokens", metadata.cache->tokens}, {"dtype", metadata.cache->dtype}, {"bytes", metadata.cache->bytes}};
  }
  if (metadata.placement) {
    json["placement"] = describe(*metadata.placement);
  }
  return json;
}

}  // namespace diffulex_edge
