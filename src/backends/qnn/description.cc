#include "backends/qnn/description.h"

#include "backends/cache_plan.h"
#include "backends/executorch/program_artefact.h"
#include "backends/qnn/package.h"
#include "backends/qnn/package_reader.h"
#include "diffulex_edge/qnn_backend.h"

namespace diffulex_edge::qnn {
namespace {

Support support(QuantizationDtype dtype, QuantizationMode mode) {
  if (format_row(dtype).has_codebook()) {
    return {SupportLevel::kUnsupported, "QNN has no weights with tables of values",
            "use --dtype int4 or int8, or --backend coreml"};
  }
  switch (dtype) {
    case QuantizationDtype::FP32:
      return {SupportLevel::kFull, "the NPU computes in FP16"};
    case QuantizationDtype::FP16:
      return {SupportLevel::kFull, "FP16 throughout"};
    case QuantizationDtype::INT8:
      switch (mode) {
        case QuantizationMode::STATIC:
          return {SupportLevel::kFull, "16-bit activations; 8-bit ones with --activation-dtype int8"};
        case QuantizationMode::DYNAMIC:
          return {SupportLevel::kFull, "the NPU quantizes nothing at run time: as weight-only"};
        case QuantizationMode::WEIGHT_ONLY:
          return {SupportLevel::kFull, "FP16 activations"};
      }
      break;
    case QuantizationDtype::INT4:
      return {SupportLevel::kFull, mode == QuantizationMode::STATIC
                                       ? "16-bit activations; groups from HTP v69 on"
                                       : "FP16 activations; with 16-bit ones in --mode static"};
    default:
      break;
  }
  return {};
}

std::vector<BackendOption> options() {
  using Type = BackendOption::Type;
  return {{.name = "soc",
           .type = Type::kList,
           .help = "Compile a context binary for this SoC as well, such as SM8650; may be repeated. Needs the Python "
                   "package onnxruntime-qnn"},
          {.name = "qnn_python",
           .type = Type::kPython,
           .help = "The Python interpreter that has onnxruntime-qnn (default: $VIRTUAL_ENV's, then python3)"},
          {.name = "embedding_on",
           .type = Type::kChoice,
           .default_value = "npu",
           .choices = {{"npu"}, {"host", "the embedding in a model of its own, for large vocabularies"}}},
          {.name = "shards",
           .type = Type::kCount,
           .help = "Cut the model between layers into so many, for NPUs with little address space",
           .default_value = "1",
           .least = 1},
          {.name = "container",
           .type = Type::kChoice,
           .default_value = "onnx",
           .choices = {{"onnx"}, {"pte", "each context binary for ExecuTorch's QNN delegate as well"}}},
          cache_option(),
          block_tokens_option(LengthSupport::kExact),
          {.name = "cache_dtype",
           .type = Type::kChoice,
           .default_value = "auto",
           .choices = {{"auto", "with --cache: as the activations"},
                       {"int8", "in mode static beside 16-bit activations: half the memory"}}},
          {.name = "share_weights",
           .type = Type::kFlag,
           .help = "With --cache and --soc: one context binary for all step sizes, which share its weights; Qualcomm's "
                   "emulator does not load it"}};
}

ArtefactReader package_artefact() {
  return {.what = "a folder of the QNN backend",
          .is_folder = true,
          .match =
              [](const std::filesystem::path& folder) {
                return is_package(folder) ? ArtefactReader::Match::kCertain : ArtefactReader::Match::kNo;
              },
          .inspect =
              [](const std::filesystem::path& folder, const InspectOptions& options, const RunControl& control) {
                return inspection_of("qnn_package", folder, read_package(folder), options, control);
              }};
}

}  // namespace

const BackendDescription& description() {
  static const BackendDescription kDescription{
      .name = "qnn",
      .title = "QNN",
      .output = "a folder",
      .lengths = LengthSupport::kExact,
      .activation_dtypes = "fp32 (default) or fp16 (default of --dtype fp16); int16 (default of --mode static) or int8",
      .options = options(),
      .support_of = support,
      .artefacts = {package_artefact(), executorch::program_artefact()}};
  return kDescription;
}

void add_to(BackendRegistry& registry) {
  registry.register_backend(description(),
                            [](BackendConfig config) { return std::make_unique<QNNBackend>(std::move(config)); });
}

}  // namespace diffulex_edge::qnn
