// Plans, lowers and writes .mlpackage folders.

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "backends/background_hash.h"
#include "backends/coreml/lowering.h"
#include "backends/coreml/options.h"
#include "backends/coreml/package.h"
#include "backends/coreml/pte_container.h"
#include "backends/export_config.h"
#include "core/json.h"
#include "core/links.h"
#include "core/output_file.h"
#include "core/output_folder.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/version.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;
using coreml::LoweredPart;

constexpr std::int64_t kNeuralEngineLimit = std::int64_t{2} << 30U;  // of a weight file
constexpr std::size_t kHashDigits = 64;
constexpr std::size_t kMaxManifestBytes = std::size_t{1} << 20U;

// A palette has no groups along the input.
BackendConfig completed(BackendConfig config) {
  config = with_static_mode(std::move(config));
  const auto palette = config.backend_options.find("palette");
  if (palette != config.backend_options.end() && palette->second == "true") {
    config.quant_config.palettes = true;
    config.quant_config.group_size = 0;
  }
  return config;
}

coreml::MilDtype choose_arithmetic(const BackendConfig& config) {
  const QuantizationConfig& quantization = config.quant_config;
  const bool all_fp32 = quantization.dtype == QuantizationDtype::FP32 && quantization.layer_formats.empty();
  switch (config.activation_dtype.value_or(all_fp32 ? ActivationDtype::FP32 : ActivationDtype::FP16)) {
    case ActivationDtype::FP32:
      return coreml::MilDtype::kFloat32;
    case ActivationDtype::FP16:
    case ActivationDtype::INT8:
      return coreml::MilDtype::kFloat16;
    case ActivationDtype::INT16:
      break;
  }
  throw Error(ErrorCode::kUnsupported, "activation dtype int16", "is not available with Core ML",
              "use --mode static for 8-bit activations");
}

// Whether some dimension varies at run time.
bool has_sequence(const Graph& graph) {
  return std::ranges::any_of(graph.nodes(), [](const Node& node) { return coreml::has_sequence(node.shape); });
}

InputLengths choose_lengths(const BackendConfig& config, const Model& model) {
  if (config.input_lengths && !has_sequence(model.graph)) {
    throw Error(ErrorCode::kInvalidArgument, "sequence length", "every shape of this model is fixed",
                "leave out the lengths");
  }
  if (!config.input_lengths) {
    return {.kind = InputLengths::Kind::kFixed, .lengths = {model.seq_len}};
  }
  check_length(*config.input_lengths, model, "the longest input");
  return *config.input_lengths;
}

std::string describe_options(const BackendConfig& config, const coreml::Options& options, coreml::MilDtype arithmetic,
                             const InputLengths& lengths, const Graph& graph) {
  std::string text = describe_quantization(config.quant_config);
  if (options.palette) {
    text += ", palette_group=" + std::to_string(options.palette_group);
  }
  text += arithmetic == coreml::MilDtype::kFloat16 ? ", arithmetic=fp16" : ", arithmetic=fp32";
  text += ", target=" + std::string(options.target->name);
  text += has_sequence(graph) ? ", lengths=" + to_string(lengths) : ", lengths=fixed";
  return text;
}

// One export, from the plan to the files.
class CoreMLExport {
 public:
  CoreMLExport(const Model& model, const BackendConfig& config)
      : model_(model),
        options_(coreml::parse_options(config)),
        arithmetic_(choose_arithmetic(config)),
        lengths_(choose_lengths(config, model)),
        quantization_(quantize_model(model, config.quant_config)),
        positions_(model.graph, model.seq_len),
        distinct_(*model.checkpoint),
        settings_({.target = options_.target,
                   .fixed_length = lengths_.kind == InputLengths::Kind::kFixed,
                   .weights = {.arithmetic = arithmetic_,
                               .saturate_fp16 = config.quant_config.saturate_fp16,
                               .palette = options_.palette,
                               .palette_group = options_.palette_group,
                               .importance = &config.quant_config.input_importance,
                               .has_sub_bytes = options_.target->release >= coreml::kBlockwiseRelease}}),
        notes_({.description = "diffulex-edge " + model.config.family,
                .user_defined = {{"com.diffulex-edge.version", std::string(version())},
                                 {"com.diffulex-edge.options",
                                  describe_options(config, options_, arithmetic_, lengths_, model.graph)},
                                 {"com.diffulex-edge.compute_unit", options_.compute_unit},
                                 {"com.diffulex-edge.source_sha256", std::string(kHashDigits, '0')}}}) {
    check(config);
    if (options_.chunk_size) {
      lower_in_parts(*options_.chunk_size);
    } else {
      parts_.push_back(lower_part(whole(model.graph), 0));
    }
    check_enumerated();
  }

  ExportMetadata metadata() const {
    std::vector<StoredLayer> layers;
    for (const auto& part : parts_) {
      layers.insert(layers.end(), part->layers.begin(), part->layers.end());
    }
    std::vector<std::string> warnings = quantization_.warnings;
    add_warnings(warnings);
    ExportMetadata metadata = describe_export(model_, quantization_, std::move(layers), warnings);
    metadata.method = options_.as_pte ? "forward" : "main";
    metadata.activation_dtype = arithmetic_ == coreml::MilDtype::kFloat16 ? "fp16" : "fp32";
    metadata.file_bytes = total_bytes();
    return metadata;
  }

  void write(const fs::path& target, const RunControl& control) {
    if (options_.as_pte) {
      return write_pte(target, control);
    }
    OutputFolder folder(target, [&](const fs::path& old) {
      return options_.chunks_are_packages ? is_chunks_folder(old) : coreml::is_package(old);
    });
    BackgroundHash source_hash(model_, control);
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      write_weights(folder, i, control);
    }
    note_source(source_hash);
    if (options_.chunks_are_packages) {
      for (std::size_t i = 0; i < parts_.size(); ++i) {
        write_message(folder, package_name(i), message_of(*parts_[i]));
      }
      write_file(folder.path() / coreml::kChunksManifest, chunks_manifest());
    } else {
      write_message(folder, "", model_message());
    }
    folder.commit();
  }

 private:
  // Whether the folder was made by this backend, so that a new one may take its place.
  static bool is_chunks_folder(const fs::path& folder) {
    return has_json_format(folder / coreml::kChunksManifest, coreml::kChunksFormat, kMaxManifestBytes);
  }

  void check(const BackendConfig& config) const {
    check_takes_integers(config, has_static_layer(quantization_.plan), "Core ML");
    if (!options_.palette) {
      return;
    }
    if (config.quant_config.method != RoundingMethod::RTN) {
      throw Error(ErrorCode::kInvalidArgument, "palette",
                  "is found by k-means, not by method " + std::string(to_string(config.quant_config.method)),
                  "leave out --method");
    }
    const auto is_int4 = [](const LayerPlan& layer) { return layer.format.element == ElementType::kI4; };
    if (std::ranges::none_of(quantization_.plan.layers, is_int4)) {
      throw Error(ErrorCode::kInvalidArgument, "palette", "no layer is INT4", "add --dtype int4");
    }
  }

  // The framework took one such input alone before.
  void check_enumerated() const {
    const auto has_several = [](const auto& part) {
      return std::ranges::count_if(part->function.inputs(), [](const coreml::MilFunction::Feature& input) {
               return coreml::has_sequence(input.type.shape);
             }) > 1;
    };
    if (lengths_.kind == InputLengths::Kind::kEnumerated && options_.target->release < coreml::kBlockwiseRelease &&
        std::ranges::any_of(parts_, has_several)) {
      throw Error(ErrorCode::kUnsupported, "sequence length",
                  "several inputs with enumerated lengths need the deployment target iOS18 or macOS15",
                  "raise --minimum-deployment-target, or give a range");
    }
  }

  bool is_pipeline() const { return options_.chunk_size.has_value() && !options_.chunks_are_packages; }

  std::string weight_file(std::size_t part) const {
    return is_pipeline() ? std::to_string(part) + "-weight.bin" : "weight.bin";
  }

  std::unique_ptr<LoweredPart> lower_part(const GraphPart& part, std::size_t index) {
    coreml::LoweringSettings settings = settings_;
    settings.weights.file = "@model_path/weights/" + weight_file(index);
    return coreml::lower(model_, quantization_.plan, positions_, part, distinct_, settings);
  }

  // As many layers into each part as its weight file may hold.
  void lower_in_parts(std::int64_t limit) {
    const std::vector<GraphPart> layers = layers_of(model_.graph);
    std::optional<GraphPart> open;
    std::unique_ptr<LoweredPart> lowered;
    for (const GraphPart& layer : layers) {
      GraphPart wanted = layer;
      if (open) {
        wanted = *open;
        wanted.end = layer.end;
        wanted.output_name = layer.output_name;
      }
      auto tried = lower_part(wanted, parts_.size());
      if (open && tried->weights.file_bytes() > limit) {
        parts_.push_back(std::move(lowered));
        wanted = layer;
        tried = lower_part(wanted, parts_.size());
      }
      if (tried->weights.file_bytes() > limit) {
        const std::string first = tried->layers.empty() ? "its constants" : tried->layers.front().plan.layer;
        throw Error(ErrorCode::kUnsupported, "chunk size",
                    std::to_string(limit) + " bytes are less than the " + std::to_string(tried->weights.file_bytes()) +
                        " that " + first + " and what can't be parted from it take");
      }
      open = wanted;
      lowered = std::move(tried);
    }
    parts_.push_back(std::move(lowered));
  }

  void add_warnings(std::vector<std::string>& warnings) const {
    if (std::ranges::any_of(parts_, [](const auto& part) { return part->dynamic_as_weight_only; })) {
      warnings.emplace_back(
          "Core ML has no operator that quantizes activations at run time: mode dynamic stores integer weights and "
          "computes in floating point, as weight_only");
    }
    if (std::ranges::any_of(parts_, [](const auto& part) { return part->clamped_constants; })) {
      warnings.emplace_back("constants of -65504 and less, such as those of masks, are -30000 in FP16");
    }
    for (const auto& part : parts_) {
      warnings.insert(warnings.end(), part->warnings.begin(), part->warnings.end());
    }
    const bool blocks = std::ranges::any_of(parts_, [](const auto& part) {
      return std::ranges::any_of(part->layers, [](const StoredLayer& layer) { return layer.kernel.ends_with("int4"); });
    });
    if (blocks && options_.compute_unit == "cpu_and_ne") {
      warnings.emplace_back(
          "people report that the Neural Engine's compiler does not take INT4 weights with scales, and that it takes "
          "--palette");
    }
    for (const auto& part : parts_) {
      if (part->weights.file_bytes() > kNeuralEngineLimit) {
        warnings.push_back("a weight file has " + std::to_string(part->weights.file_bytes()) +
                           " bytes, and the Neural Engine refuses more than 2 GiB: use --chunk-size");
        break;
      }
    }
  }

  std::string message_of(const LoweredPart& part) const {
    return coreml::serialize_model(part.function, lengths_, *options_.target, notes_);
  }

  std::string model_message() const {
    if (!is_pipeline()) {
      return message_of(*parts_.front());
    }
    std::vector<const coreml::MilFunction*> functions;
    for (const auto& part : parts_) {
      functions.push_back(&part->function);
    }
    return coreml::serialize_pipeline(functions, lengths_, *options_.target, notes_);
  }

  coreml::PteContainer pte() const {
    const LoweredPart& part = *parts_.front();
    const std::string message = message_of(part);
    return coreml::PteContainer(
        {{coreml::kManifestFile, coreml::package_manifest(message)}, {coreml::kModelFile, message}},
        std::string(coreml::kWeightsFolder) + "/" + weight_file(0), part.weights.file_bytes(), part.function,
        input_dtypes(), *options_.target, options_.compute_unit);
  }

  std::vector<DType> input_dtypes() const {
    std::vector<DType> dtypes;
    for (const Node& node : model_.graph.nodes()) {
      if (node.op == Op::kInput) {
        dtypes.push_back(node.dtype);
      }
    }
    return dtypes;
  }

  void note_source(BackgroundHash& hash) { notes_.user_defined["com.diffulex-edge.source_sha256"] = hash.get(); }

  void write_pte(const fs::path& target, const RunControl& control) {
    const coreml::PteContainer unhashed = pte();
    OutputFile file(target, unhashed.file_bytes());
    BackgroundHash source_hash(model_, control);
    const std::int64_t begin = unhashed.weights_offset();
    parts_.front()->weights.stream(
        [&](std::int64_t offset, std::span<const std::byte> bytes) { file.write(begin + offset, bytes); }, control);
    note_source(source_hash);
    pte().write(file);
    file.flush(control.stop);
    file.commit();
  }

  static std::int64_t package_bytes(const std::string& message) {
    return static_cast<std::int64_t>(message.size() + coreml::package_manifest(message).size());
  }

  static std::string package_name(std::size_t part) { return "part_" + std::to_string(part) + ".mlpackage"; }

  // Which parts there are and what passes between them.
  std::string chunks_manifest() const {
    nlohmann::ordered_json manifest{{"format", coreml::kChunksFormat}, {"version", 1}};
    manifest["parts"] = nlohmann::ordered_json::array();
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      const auto& inputs = parts_[i]->function.inputs();
      nlohmann::ordered_json part{{"package", package_name(i)}, {"input", inputs.front().name}};
      if (inputs.size() > 1) {
        for (const coreml::MilFunction::Feature& input : inputs) {
          part["inputs"].push_back(input.name);
        }
      }
      part["output"] = parts_[i]->function.outputs().front().name;
      part["weight_bytes"] = parts_[i]->weights.file_bytes();
      manifest["parts"].push_back(std::move(part));
    }
    return manifest.dump(2) + "\n";
  }

  std::int64_t total_bytes() const {
    if (options_.as_pte) {
      return pte().file_bytes();
    }
    std::int64_t total = 0;
    for (const auto& part : parts_) {
      total += part->weights.file_bytes();
    }
    if (!options_.chunks_are_packages) {
      return total + package_bytes(model_message());
    }
    for (const auto& part : parts_) {
      total += package_bytes(message_of(*part));
    }
    return total + static_cast<std::int64_t>(chunks_manifest().size());
  }

  void write_weights(const OutputFolder& folder, std::size_t part, const RunControl& control) const {
    const fs::path package = options_.chunks_are_packages ? package_name(part) : "";
    const coreml::WeightStore& store = parts_[part]->weights;
    OutputFile file(folder.make_folder(package / coreml::kWeightsFolder) / weight_file(part), store.file_bytes());
    store.stream([&](std::int64_t offset, std::span<const std::byte> bytes) { file.write(offset, bytes); }, control);
    file.flush(control.stop);
    file.commit();
  }

  static void write_message(const OutputFolder& folder, const fs::path& package, const std::string& message) {
    write_file(folder.path() / package / coreml::kModelFile, message);
    write_file(folder.path() / package / coreml::kManifestFile, coreml::package_manifest(message));
  }

  const Model& model_;
  coreml::Options options_;
  coreml::MilDtype arithmetic_;
  InputLengths lengths_;
  QuantizationResult quantization_;
  PositionValues positions_;
  DistinctTensors distinct_;
  coreml::LoweringSettings settings_;
  coreml::ModelNotes notes_;
  std::vector<std::unique_ptr<LoweredPart>> parts_;
};

}  // namespace

CoreMLBackend::CoreMLBackend(BackendConfig config) : EdgeBackend(completed(std::move(config))) {}

void CoreMLBackend::check_config() const {
  const coreml::Options options = coreml::parse_options(config());
  choose_arithmetic(config());
  check_not_dynamic(config(), "leave it out: mode dynamic computes in floating point with Core ML");
  if (config().quant_config.mode == QuantizationMode::STATIC && options.target->release < coreml::kStaticRelease) {
    throw Error(ErrorCode::kUnsupported, "mode static", "needs the deployment target iOS17 or macOS14",
                "raise --minimum-deployment-target, or use --mode weight_only");
  }
}

void CoreMLBackend::check_target(const fs::path& target) const {
  const coreml::Options options = coreml::parse_options(config());
  if (!options.as_pte && !options.chunks_are_packages && without_slash(target).extension() != ".mlpackage") {
    throw Error(ErrorCode::kInvalidArgument, target.string(), "Core ML opens only folders named .mlpackage",
                "name it with -o NAME.mlpackage");
  }
}

ExportMetadata CoreMLBackend::run(const Model& model, const fs::path* target, const RunControl& control) {
  CoreMLExport work(model, config());
  ExportMetadata metadata = work.metadata();
  if (target != nullptr) {
    work.write(*target, control);
  }
  return metadata;
}

Support CoreMLBackend::support(QuantizationDtype dtype, QuantizationMode mode) const {
  switch (dtype) {
    case QuantizationDtype::FP32:
      return {SupportLevel::kFull, "FP32 throughout"};
    case QuantizationDtype::FP16:
      return {SupportLevel::kFull, "FP16 throughout"};
    case QuantizationDtype::INT8:
      if (mode == QuantizationMode::STATIC) {
        return {SupportLevel::kFull, "INT8 weights and activations, with ranges from calibration; from iOS17"};
      }
      return mode == QuantizationMode::DYNAMIC
                 ? Support{SupportLevel::kPartial, "INT8 weights, computed in FP16: no operator quantizes at run time"}
                 : Support{SupportLevel::kFull, "INT8 weights, computed in FP16"};
    case QuantizationDtype::INT4:
      if (mode == QuantizationMode::STATIC) {
        return {SupportLevel::kPartial,
                "per channel from iOS18, palettes from iOS17; 8-bit activations with ranges from calibration; none for "
                "groups"};
      }
      return mode == QuantizationMode::DYNAMIC
                 ? Support{SupportLevel::kPartial, "INT4 weights, computed in FP16: no operator quantizes at run time"}
                 : Support{SupportLevel::kFull,
                           "groups or channels from iOS18, palettes of 16 values from iOS16; computed in FP16"};
  }
  return {};
}

}  // namespace diffulex_edge
