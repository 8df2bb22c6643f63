#include "backends/coreml/description.h"

#include <algorithm>
#include <string>

#include "backends/cache_plan.h"
#include "backends/coreml/options.h"
#include "backends/coreml/package.h"
#include "backends/coreml/package_reader.h"
#include "backends/coreml/stored_forms.h"
#include "backends/executorch/program_artefact.h"
#include "core/json.h"
#include "diffulex_edge/coreml_backend.h"

namespace diffulex_edge::coreml {
namespace {

// By the newest target; check_config asks for the one that was chosen.
Support support(QuantizationDtype dtype, QuantizationMode mode) {
  const FormatRow& row = format_row(dtype);
  if (!row.is_quantized()) {
    return {SupportLevel::kFull, std::string(row.title) + " throughout"};
  }
  const std::string weights = row.has_codebook() ? "tables of " + std::to_string(1 << row.bits()) + " values"
                                                 : std::string(row.title) + " weights";
  if (mode == QuantizationMode::DYNAMIC) {
    return {SupportLevel::kPartial, weights + ", computed in FP16: no operator quantizes at run time"};
  }
  const std::string from = "; from iOS" + std::to_string(stored_form(row.element).release);
  if (mode == QuantizationMode::STATIC) {
    return row.takes_groups ? Support{SupportLevel::kPartial,
                                      "per channel, 8-bit activations with ranges from calibration; none "
                                      "for groups" +
                                          from}
                            : Support{SupportLevel::kFull,
                                      weights + " and 8-bit activations, with ranges from calibration; from iOS" +
                                          std::to_string(std::max(kStaticRelease, stored_form(row.element).release))};
  }
  return {SupportLevel::kFull, (row.takes_groups ? "groups or channels" : weights) + ", computed in FP16" + from};
}

std::vector<BackendOption> options() {
  using Type = BackendOption::Type;
  BackendOption target{.name = "minimum_deployment_target",
                       .type = Type::kChoice,
                       .help = "the oldest system that runs the model",
                       .default_value = "iOS18"};
  for (std::string& name : deployment_target_names()) {
    target.choices.push_back({std::move(name)});
  }
  return {std::move(target),
          {.name = "compute_unit",
           .type = Type::kChoice,
           .help = "noted inside",
           .default_value = "all",
           .choices = {{"all"}, {"cpu_only"}, {"cpu_and_gpu"}, {"cpu_and_ne"}}},
          {.name = "palette", .type = Type::kFlag, .help = "palette4 wherever the format would be int4"},
          {.name = "palette_group",
           .type = Type::kCount,
           .help = "Palettes: rows of a weight that share a table; 0: all",
           .default_value = "0"},
          {.name = "chunk_size",
           .type = Type::kSize,
           .help = "Cut the model between layers, weight files of at most this size (2GB)"},
          {.name = "chunks",
           .type = Type::kChoice,
           .default_value = "pipeline",
           .choices = {{"pipeline", "the parts in one package"}, {"packages", "a folder of packages and a manifest"}}},
          {.name = "container",
           .type = Type::kChoice,
           .default_value = "mlpackage",
           .choices = {{"mlpackage"}, {"pte", "for ExecuTorch's Core ML delegate"}}},
          cache_option(),
          block_tokens_option(LengthSupport::kAny),
          {.name = "cache_storage",
           .type = Type::kChoice,
           .default_value = "auto",
           .choices = {{"auto", "with --cache: a state from iOS18 on, inputs before"},
                       {"state", "the model keeps keys and values"},
                       {"inputs", "the caller keeps them, and writes the new ones that each step gives"}}},
          {.name = "logits",
           .type = Type::kChoice,
           .default_value = "all",
           .choices = {{"all"}, {"last", "with --cache: of a step's last token"}}}};
}

ArtefactReader package_artefact() {
  return {.what = "a Core ML package (.mlpackage)",
          .is_folder = true,
          .match =
              [](const std::filesystem::path& folder) {
                if (is_package(folder)) {
                  return ArtefactReader::Match::kCertain;
                }
                const bool has_its_name = folder.extension() == ".mlpackage";
                return has_its_name ? ArtefactReader::Match::kLikely : ArtefactReader::Match::kNo;
              },
          .inspect =
              [](const std::filesystem::path& folder, const InspectOptions& options, const RunControl& control) {
                PackageContents contents = read_package(folder);
                const bool is_pipeline = contents.models.front().type == "pipeline";
                return inspection_of(is_pipeline ? "coreml_pipeline" : "coreml_package", folder, std::move(contents),
                                     options, control);
              }};
}

ArtefactReader chunks_artefact() {
  return {.what = "a folder of Core ML packages",
          .is_folder = true,
          .match =
              [](const std::filesystem::path& folder) {
                if (is_chunks_folder(folder)) {
                  return ArtefactReader::Match::kCertain;
                }
                std::error_code error;
                const bool has_manifest = std::filesystem::exists(folder / kChunksManifest, error);
                return has_manifest && !std::filesystem::exists(folder / "config.json", error)
                           ? ArtefactReader::Match::kLikely
                           : ArtefactReader::Match::kNo;
              },
          .inspect =
              [](const std::filesystem::path& folder, const InspectOptions& options, const RunControl& control) {
                return inspection_of("coreml_chunks", folder, read_chunks(folder), options, control);
              }};
}

// A package, or a reference to one that several delegates share.
DelegateContents read_delegate(const DelegatePayload& payload) {
  const std::string key = referenced_payload(payload.bytes, payload.file);
  const std::span<const std::byte> source = key.empty() ? payload.bytes : payload.named_data(key);
  PackageContents package = read_payload(source, payload.file);
  return {.found = {.files = std::move(package.files), .models = std::move(package.models)},
          .tensors = std::move(package.weights),
          .bytes = std::move(package.bytes),
          .source = source};
}

}  // namespace

const BackendDescription& description() {
  static const BackendDescription kDescription{
      .name = "coreml",
      .title = "Core ML",
      .output = "a .mlpackage folder",
      .suffix = ".mlpackage",
      .lengths = LengthSupport::kAny,
      .activation_dtypes = "fp16 (default) or fp32 (default of --dtype fp32); int8: the same as --mode static",
      .options = options(),
      .support_of = support,
      .artefacts = {package_artefact(), chunks_artefact(), executorch::program_artefact()},
      .delegates = {{.id = "CoreMLBackend", .read = read_delegate}}};
  return kDescription;
}

void add_to(BackendRegistry& registry) {
  registry.register_backend(description(),
                            [](BackendConfig config) { return std::make_unique<CoreMLBackend>(std::move(config)); });
}

}  // namespace diffulex_edge::coreml
