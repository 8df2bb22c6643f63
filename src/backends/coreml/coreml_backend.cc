// Plans, lowers and writes .mlpackage folders.

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "backends/background_hash.h"
#include "backends/cache_plan.h"
#include "backends/coreml/description.h"
#include "backends/coreml/lowering.h"
#include "backends/coreml/options.h"
#include "backends/coreml/package.h"
#include "backends/coreml/pte_container.h"
#include "backends/coreml/stored_forms.h"
#include "backends/executorch/language_model_methods.h"
#include "backends/export_config.h"
#include "backends/option_values.h"
#include "core/links.h"
#include "core/output_file.h"
#include "core/output_folder.h"
#include "diffulex_edge/coreml_backend.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/version.h"
#include "quant/layer_formats.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;
using coreml::LoweredPart;

constexpr std::int64_t kNeuralEngineLimit = std::int64_t{2} << 30U;  // of a weight file
constexpr std::size_t kHashDigits = 64;
constexpr std::size_t kMaxRank = 5;  // of a value in a program

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

InputLengths choose_lengths(const BackendConfig& config, const Model& model, const std::optional<CachePlan>& cache) {
  if (cache) {
    if (config.input_lengths) {
      throw Error(ErrorCode::kInvalidArgument, "sequence length", "is that of a step in a model with a cache",
                  "give --block-tokens instead");
    }
    const bool is_one = cache->block_sizes.size() == 1;
    return {.kind = is_one ? InputLengths::Kind::kFixed : InputLengths::Kind::kEnumerated,
            .lengths = cache->block_sizes};
  }
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
                             const InputLengths& lengths, const std::optional<CachePlan>& cache, const Model& model) {
  std::string text = describe_quantization(model, config.quant_config);
  if (has_palettes(config.quant_config)) {
    text += ", palette_group=" + std::to_string(config.quant_config.palette_group);
  }
  text += arithmetic == coreml::MilDtype::kFloat16 ? ", arithmetic=fp16" : ", arithmetic=fp32";
  text += ", target=" + std::string(options.target->name);
  text += has_sequence(model.graph) ? ", lengths=" + to_string(lengths) : ", lengths=fixed";
  if (cache) {
    text += ", cache=" + std::to_string(cache->tokens);
    text += options.cache_storage == coreml::CacheStorage::kState ? " in states" : " in inputs";
    text += ", logits=" + std::string(logits_name(*cache));
  }
  return text;
}

OutputFolder::MayReplace may_replace(const coreml::Options& options) {
  return options.chunks_are_packages ? coreml::is_chunks_folder : coreml::is_package;
}

// One export, from the plan to the files.
class CoreMLExport {
 public:
  CoreMLExport(const Model& model, const BackendConfig& config, const CalibrationFindings& findings,
               const TargetArithmetic& target)
      : model_(model),
        options_(coreml::parse_options(config)),
        arithmetic_(choose_arithmetic(config)),
        cache_(read_cache_plan(OptionValues(coreml::description(), config.backend_options), model)),
        lengths_(choose_lengths(config, model, cache_)),
        quantization_(quantize_model(model, config.quant_config, findings, target)),
        graph_(cache_ ? with_longest_sequence(model.graph, cache_->block_tokens) : model.graph),
        positions_(cache_ ? PositionValues(with_longest_sequence(graph_, cache_->tokens), cache_->tokens)
                          : PositionValues(graph_, model.seq_len)),
        distinct_(*model.checkpoint),
        settings_({.target = options_.target,
                   .fixed_length = lengths_.kind == InputLengths::Kind::kFixed,
                   .weights = {.arithmetic = arithmetic_,
                               .saturate_fp16 = config.quant_config.saturate_fp16,
                               .has_sub_bytes = options_.target->release >= coreml::kBlockwiseRelease},
                   .cache = cache_,
                   .cache_storage = options_.cache_storage}),
        notes_({.description = "diffulex-edge " + model.config.family,
                .user_defined = {{"com.diffulex-edge.version", std::string(version())},
                                 {"com.diffulex-edge.options",
                                  describe_options(config, options_, arithmetic_, lengths_, cache_, model)},
                                 {"com.diffulex-edge.compute_unit", options_.compute_unit},
                                 {"com.diffulex-edge.source_sha256", std::string(kHashDigits, '0')}}}) {
    check(config);
    if (options_.chunk_size) {
      lower_in_parts(*options_.chunk_size);
    } else {
      parts_.push_back(lower_part(whole(graph_), 0));
    }
    check_enumerated();
    if (options_.as_pte || cache_) {
      // The caller of a step fills it up.
      const bool takes_fewer = !cache_ && lengths_.kind != InputLengths::Kind::kFixed;
      facts_ = executorch::language_model_methods(model, executorch::program_inputs(model, cache_, takes_fewer));
    }
    if (cache_) {
      notes_.user_defined["com.diffulex-edge.language_model"] = executorch::methods_as_json(facts_.methods);
    }
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
    if (cache_) {
      metadata.seq_len = cache_->block_tokens;
      metadata.cache = ArtefactCache{.tokens = cache_->tokens, .dtype = cache_dtype(), .bytes = cache_bytes()};
    }
    return metadata;
  }

  void write(const fs::path& target, const RunControl& control) {
    if (options_.as_pte) {
      return write_pte(target, control);
    }
    OutputFolder folder(target, may_replace(options_));
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
  void check(const BackendConfig& config) const {
    check_no_experts(model_, "Core ML");
    check_rank(model_, kMaxRank, "Core ML");
    check_takes_integers(config, has_static_layer(quantization_.plan), "Core ML");
    const auto has_table = [](const LayerPlan& layer) { return layer.format.has_codebook(); };
    if (options_.palette && std::ranges::none_of(quantization_.plan.layers, has_table)) {
      throw Error(ErrorCode::kInvalidArgument, "palette", "no layer is INT4", "add --dtype int4");
    }
    if (cache_ && options_.as_pte && options_.cache_storage == coreml::CacheStorage::kInputs) {
      throw Error(ErrorCode::kUnsupported, "container pte", "keeps its cache in the model's state",
                  "leave out --cache-storage inputs, and raise --minimum-deployment-target to iOS18");
    }
    if (cache_ && is_pipeline()) {
      throw Error(ErrorCode::kUnsupported, "cache", "a pipeline keeps no states and passes on no caches",
                  "add --chunks packages, and run the parts one after the other");
    }
  }

  // Older frameworks take only one such input.
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
    return coreml::lower(graph_, *model_.checkpoint, quantization_.plan, positions_, part, distinct_, settings);
  }

  // As many layers into each part as its weight file may hold.
  void lower_in_parts(std::int64_t limit) {
    const std::vector<GraphPart> layers = layers_of(graph_);
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
    warnings.insert(warnings.end(), facts_.warnings.begin(), facts_.warnings.end());
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
        input_dtypes(), *options_.target, options_.compute_unit, facts_.methods);
  }

  std::string cache_dtype() const {
    const bool is_half =
        options_.cache_storage == coreml::CacheStorage::kState || arithmetic_ == coreml::MilDtype::kFloat16;
    return is_half ? "fp16" : "fp32";
  }

  std::int64_t cache_bytes() const {
    std::int64_t bytes = 0;
    for (const auto& part : parts_) {
      bytes += part->cache_bytes;
    }
    return bytes;
  }

  std::vector<DType> input_dtypes() const {
    std::vector<DType> dtypes;
    for (const Node& node : model_.graph.nodes()) {
      if (node.op == Op::kInput) {
        dtypes.push_back(node.dtype);
      }
    }
    dtypes.resize(parts_.front()->function.inputs().size(), DType::kI64);  // where a step begins, and the like
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
  std::optional<CachePlan> cache_;
  InputLengths lengths_;
  QuantizationResult quantization_;
  Graph graph_;  // what is lowered: of one step, where there is a cache
  PositionValues positions_;
  DistinctTensors distinct_;
  coreml::LoweringSettings settings_;
  coreml::ModelNotes notes_;
  std::vector<std::unique_ptr<LoweredPart>> parts_;
  executorch::LanguageModelMethods facts_;
};

}  // namespace

CoreMLBackend::CoreMLBackend(BackendConfig config) : EdgeBackend(std::move(config)) {}

// What the options about palettes mean is part of the quantization.
QuantizationConfig CoreMLBackend::quantization() const {
  QuantizationConfig wanted = EdgeBackend::quantization();
  const OptionValues values(coreml::description(), config().backend_options);
  if (values.is_on("palette")) {
    wanted = with_palettes(std::move(wanted));
  }
  if (const std::int64_t rows = values.count("palette_group"); rows > 0) {
    wanted.palette_group = rows;
  }
  return wanted;
}

// Integers around layers in mode static; no operator quantizes at run time.
TargetArithmetic CoreMLBackend::arithmetic() const {
  using Half = TargetArithmetic::Half;
  const bool is_half = choose_arithmetic(resolved()) == coreml::MilDtype::kFloat16;
  return {.has_dynamic = false, .groups_are_dynamic = false, .half = is_half ? Half::kAlways : Half::kNever};
}

void CoreMLBackend::check_config() const {
  const coreml::Options options = coreml::parse_options(config());
  choose_arithmetic(resolved());
  const QuantizationConfig wanted = quantization();
  check_formats(coreml::description(), wanted);
  for (const QuantizationDtype dtype : dtypes_of(wanted)) {
    const FormatRow& row = format_row(dtype);
    const WeightFormat format = row.format(row.has_codebook() ? wanted.palette_group : 0);
    if (const std::optional<coreml::Refusal> reason = coreml::refusal(format, *options.target)) {
      throw Error(ErrorCode::kUnsupported, "dtype " + std::string(row.name), reason->why, reason->advice);
    }
  }
  check_not_dynamic(config(), "leave it out: mode dynamic computes in floating point with Core ML");
  if (wanted.mode == QuantizationMode::STATIC && options.target->release < coreml::kStaticRelease) {
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
  if (options.as_pte) {
    OutputFile::check(target);
  } else {
    OutputFolder::check(target, may_replace(options));
  }
}

ExportMetadata CoreMLBackend::run(const Model& model, const CalibrationFindings& findings, const fs::path* target,
                                  const RunControl& control) {
  CoreMLExport work(model, resolved(), findings, arithmetic());
  ExportMetadata metadata = work.metadata();
  if (target != nullptr) {
    work.write(*target, control);
  }
  return metadata;
}

}  // namespace diffulex_edge
