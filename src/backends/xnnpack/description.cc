#include "backends/xnnpack/description.h"

#include "backends/cache_plan.h"
#include "backends/executorch/program_artefact.h"
#include "backends/xnnpack/payload_reader.h"
#include "diffulex_edge/xnnpack_backend.h"

namespace diffulex_edge::xnnpack {
namespace {

Support support(QuantizationDtype dtype, QuantizationMode mode) {
  if (format_row(dtype).has_codebook()) {
    return {SupportLevel::kUnsupported, "XNNPACK has no weights with tables of values",
            "use --dtype int4 or int8, or --backend coreml"};
  }
  switch (dtype) {
    case QuantizationDtype::FP32:
      return {SupportLevel::kFull, "f32 x f32"};
    case QuantizationDtype::FP16:
      return {SupportLevel::kFull, "f32 x f16, or f16 throughout with --activation-dtype fp16"};
    case QuantizationDtype::INT8:
      if (mode == QuantizationMode::STATIC) {
        return {SupportLevel::kFull, "qs8 x qc8w, with ranges from calibration"};
      }
      return {SupportLevel::kFull, mode == QuantizationMode::DYNAMIC ? "qd8 x qc8w" : "f32 x qc8w"};
    case QuantizationDtype::INT4:
      if (mode == QuantizationMode::STATIC) {
        return {SupportLevel::kPartial, "per channel: qs8 x qc4w, with ranges from calibration; none for groups"};
      }
      return {SupportLevel::kFull, "groups: qd8 x qb4w (activations in 8 bits); per channel: f32 or qd8 x qc4w"};
    default:
      break;
  }
  return {};
}

std::vector<BackendOption> options() {
  using Type = BackendOption::Type;
  return {cache_option(),
          {.name = "cache_dtype",
           .type = Type::kChoice,
           .default_value = "fp16",
           .choices = {{"fp16"}, {"fp32"}, {"int8", "with --cache: with a scale for each token and head"}}},
          {.name = "logits",
           .type = Type::kChoice,
           .default_value = "all",
           .choices = {{"all"},
                       {"last", "with --cache: of a step's last token"},
                       {"rows", "with --cache: of those that a last argument names, int64 [1, R]"}}},
          block_tokens_option(LengthSupport::kUpTo)};
}

}  // namespace

const BackendDescription& description() {
  static const BackendDescription kDescription{
      .name = "xnnpack",
      .title = "XNNPACK",
      .output = "a .pte file",
      .suffix = ".pte",
      .lengths = LengthSupport::kUpTo,
      .activation_dtypes = "fp32 (default) or fp16; int8: the same as --mode static",
      .options = options(),
      .support_of = support,
      .artefacts = {executorch::program_artefact()},
      .delegates = {{.id = "XnnpackBackend", .read = read_payload}}};
  return kDescription;
}

void add_to(BackendRegistry& registry) {
  registry.register_backend(description(),
                            [](BackendConfig config) { return std::make_unique<XNNPACKBackend>(std::move(config)); });
}

}  // namespace diffulex_edge::xnnpack
