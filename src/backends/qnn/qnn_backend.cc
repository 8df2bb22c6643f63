// Plans, lowers and writes ONNX models, and has the vendor's compiler make context binaries of them.

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "backends/background_hash.h"
#include "backends/executorch/language_model_methods.h"
#include "backends/export_config.h"
#include "backends/qnn/compiler.h"
#include "backends/qnn/description.h"
#include "backends/qnn/lowering.h"
#include "backends/qnn/options.h"
#include "backends/qnn/package.h"
#include "backends/qnn/pte_container.h"
#include "core/links.h"
#include "core/mapped_file.h"
#include "core/output_file.h"
#include "core/output_folder.h"
#include "core/sha256.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/qnn_backend.h"
#include "diffulex_edge/version.h"
#include "quant/arithmetic.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

// Every value an integer in mode static; no operator quantizes at run time.
TargetArithmetic arithmetic_of(const BackendConfig& config) {
  return {.has_dynamic = false,
          .groups_are_dynamic = false,
          .has_static_groups = true,
          .static_everywhere = true,
          .static_bits = config.activation_dtype == ActivationDtype::INT8 ? 8 : 16};
}

bool is_static(const BackendConfig& config) { return is_static_everywhere(config.quant_config, arithmetic_of(config)); }

qnn::LoweringSettings choose_settings(const BackendConfig& config, const qnn::Options& options) {
  const QuantizationConfig& quantization = config.quant_config;
  qnn::LoweringSettings settings{.host_embedding = options.host_embedding, .shards = options.shards};
  const bool all_fp16 = quantization.dtype == QuantizationDtype::FP16 && quantization.layer_formats.empty();
  const bool wants_fp16 = config.activation_dtype == ActivationDtype::FP16;
  if (is_static(config) && (wants_fp16 || config.activation_dtype == ActivationDtype::FP32)) {
    throw Error(ErrorCode::kInvalidArgument, "activation dtype " + std::string(to_string(*config.activation_dtype)),
                "is not mode static, in which QNN computes in integers", "leave it out, or use --mode weight_only");
  }
  if (wants_fp16 && has_integers(quantization)) {
    throw Error(ErrorCode::kUnsupported, "activation dtype fp16",
                "is not available with integer weights: their scales are float32",
                "leave it out: the NPU computes floating point in FP16 in any case");
  }
  if (wants_fp16 || (all_fp16 && !config.activation_dtype)) {
    settings.arithmetic = qnn::OnnxDtype::kFloat16;
  }
  return settings;
}

std::string describe_activations(const BackendConfig& config, const qnn::LoweringSettings& settings) {
  if (is_static(config)) {
    return "int" + std::to_string(arithmetic_of(config).static_bits);
  }
  return settings.arithmetic == qnn::OnnxDtype::kFloat16 ? "fp16" : "fp32";
}

std::string describe_options(const Model& model, const BackendConfig& config, const qnn::LoweringSettings& settings) {
  return describe_quantization(model, config.quant_config) + ", activations=" + describe_activations(config, settings);
}

void check_lengths(const BackendConfig& config, const Model& model) {
  if (!config.input_lengths) {
    return;
  }
  if (config.input_lengths->kind != InputLengths::Kind::kFixed) {
    throw Error(ErrorCode::kUnsupported, "sequence length",
                "QNN compiles for one length, not for " + to_string(*config.input_lengths),
                "export once for each length");
  }
  check_length(*config.input_lengths, model, "the input");
}

qnn::LoweringSettings settings_for(const Model& model, const BackendConfig& config, const qnn::Options& options) {
  check_no_experts(model, "QNN");
  qnn::LoweringSettings settings = choose_settings(config, options);
  settings.cache = qnn::parse_cache(config, model, is_static(config));
  return settings;
}

// How an execution of `tokens` tokens is called.
executorch::ProgramInputs inputs_of(const Model& model, const std::optional<qnn::CacheSettings>& cache,
                                    std::int64_t tokens) {
  if (!cache) {
    return {.step_tokens = model.seq_len, .context_tokens = model.seq_len};
  }
  return {.step_tokens = tokens,
          .context_tokens = cache->tokens,
          .cache = cache->is_bidirectional ? "approximate" : "exact"};
}

// One export, from the plan to the files.
class QNNExport {
 public:
  QNNExport(const Model& model, BackendConfig config, const CalibrationFindings& findings,
            const TargetArithmetic& target)
      : model_(model),
        config_(std::move(config)),
        options_(qnn::parse_options(config_)),
        settings_(settings_for(model, config_, options_)),
        quantization_(quantize_model(model, config_.quant_config, findings, target)),
        positions_(model.graph, settings_.cache ? settings_.cache->tokens : model.seq_len),
        distinct_(*model.checkpoint),
        facts_({.notes = {{"producer", "diffulex-edge " + std::string(version())},
                          {"family", model.config.family},
                          {"options", describe_options(model, config_, settings_)},
                          {"source_sha256", std::string(kSha256Digits, '0')}},
                .model_sha256 = {},
                .compiler = {},
                .contexts = {},
                .cache = settings_.cache,
                .language_model = {}}) {
    check_lengths(config_, model);
    check_takes_integers(config_, has_integers(config_.quant_config), "QNN");
    lowered_ = qnn::lower(model, quantization_.plan, positions_, distinct_, settings_);
    if (settings_.cache) {
      executorch::LanguageModelMethods found = executorch::language_model_methods(
          model, inputs_of(model, settings_.cache, settings_.cache->block_sizes.back()));
      facts_.language_model = std::move(found.methods);
      missing_facts_ = std::move(found.warnings);
    } else if (options_.as_pte) {
      missing_facts_ = executorch::language_model_methods(model, inputs_of(model, {}, 0)).warnings;
    }
    facts_.model_sha256.assign(lowered_->models.size(), std::string(kSha256Digits, '0'));
    check_socs();
  }

  ExportMetadata metadata() const {
    std::vector<std::string> warnings = quantization_.warnings;
    add_warnings(warnings);
    ExportMetadata metadata = describe_export(model_, quantization_, lowered_->layers, warnings);
    metadata.method = "forward";
    metadata.activation_dtype = describe_activations(config_, settings_);
    metadata.file_bytes = lowered_->data.file_bytes() + static_cast<std::int64_t>(manifest().size()) + context_bytes_;
    for (const auto& model : lowered_->models) {
      metadata.file_bytes += static_cast<std::int64_t>(message_of(*model).size() + encodings_of(*model).size());
    }
    if (settings_.cache) {
      metadata.seq_len = settings_.cache->block_sizes.back();
      metadata.cache = ArtefactCache{
          .tokens = settings_.cache->tokens, .dtype = describe_cache_dtype(), .bytes = qnn::cache_bytes(*lowered_)};
    }
    if (!facts_.contexts.empty()) {
      metadata.placement = placement();
    }
    return metadata;
  }

  void write(const fs::path& target, const RunControl& control) {
    std::optional<qnn::ContextCompiler> compiler;
    if (!options_.socs.empty()) {
      compiler = qnn::ContextCompiler::find(options_.python, missing_);
    }
    OutputFolder folder(target, qnn::is_package);
    BackgroundHash source_hash(model_, control);
    {
      OutputFile data(folder.path() / qnn::kDataFile, lowered_->data.file_bytes());
      lowered_->data.stream([&](std::int64_t offset, std::span<const std::byte> bytes) { data.write(offset, bytes); },
                            control);
      data.flush(control.stop);
      data.commit();
    }
    facts_.notes["source_sha256"] = source_hash.get();
    for (std::size_t i = 0; i < lowered_->models.size(); ++i) {
      const qnn::OnnxModel& model = *lowered_->models[i];
      const std::string message = message_of(model);
      write_file(folder.path() / qnn::model_file(model), message);
      facts_.model_sha256[i] = sha256_hex(std::as_bytes(std::span(message)));
      if (!model.encodings.empty()) {
        write_file(folder.path() / qnn::encodings_file(model), encodings_of(model));
      }
    }
    if (compiler) {
      facts_.compiler = compiler->version();
      for (const qnn::Soc* soc : options_.socs) {
        for (const std::vector<const qnn::OnnxModel*>& models : binaries()) {
          compile(*compiler, *soc, models, folder, control);
        }
      }
    }
    write_file(folder.path() / qnn::kManifestFile, manifest());
    folder.commit();
  }

 private:
  static constexpr std::size_t kSha256Digits = 64;

  std::string message_of(const qnn::OnnxModel& model) const { return model.graph.serialize(facts_.notes); }

  void check_socs() const {
    for (const qnn::Soc* soc : options_.socs) {
      if (lowered_->has_blocks && !soc->takes_block_int4()) {
        throw Error(ErrorCode::kUnsupported, std::string(soc->name), "its NPU takes no INT4 weights in groups",
                    "use --group-size 0");
      }
    }
  }

  static std::string encodings_of(const qnn::OnnxModel& model) {
    return model.encodings.empty() ? std::string() : qnn::describe_encodings(model.encodings);
  }

  // The compiler makes one piece of a model, all of which the NPU executes, or refuses it.
  Placement placement() const {
    Placement placement;
    for (const auto& model : lowered_->models) {
      for (const qnn::OnnxGraph::NodeView& node : model->graph.nodes()) {
        ++(model->on_host ? placement.host : placement.npu)[node.op];
      }
    }
    std::set<fs::path> binaries;
    for (const qnn::PackagedContext& packaged : facts_.contexts) {
      if (!binaries.insert(packaged.context.binary).second) {
        continue;
      }
      placement.binaries.push_back({.soc = std::string(packaged.soc->name),
                                    .source = packaged.source,
                                    .bytes = packaged.context.bytes,
                                    .seconds = packaged.context.seconds,
                                    .peak_rss_bytes = packaged.context.peak_rss_bytes});
    }
    return placement;
  }

  std::string describe_cache_dtype() const {
    const std::string dtype = qnn::cache_dtype(*lowered_);
    if (dtype == "float32") {
      return "fp32";
    }
    return dtype == "float16" ? "fp16" : dtype;
  }

  std::string manifest() const { return qnn::describe_package(*lowered_, facts_); }

  // The NPU's models of each context binary: one, or the same part of the model for every step size.
  std::vector<std::vector<const qnn::OnnxModel*>> binaries() const {
    std::vector<const qnn::OnnxModel*> models;
    for (const auto& model : lowered_->models) {
      if (!model->on_host) {
        models.push_back(model.get());
      }
    }
    const auto parts = static_cast<std::size_t>(settings_.shards);
    std::vector<std::vector<const qnn::OnnxModel*>> result(options_.share_weights ? parts : models.size());
    for (std::size_t i = 0; i < models.size(); ++i) {
      result[i % result.size()].push_back(models[i]);
    }
    return result;
  }

  void compile(const qnn::ContextCompiler& compiler, const qnn::Soc& soc,
               const std::vector<const qnn::OnnxModel*>& models, const OutputFolder& folder,
               const RunControl& control) {
    const fs::path place = folder.make_folder(soc.name);
    std::vector<fs::path> files;
    for (const qnn::OnnxModel* model : models) {
      files.push_back(folder.path() / qnn::model_file(*model));
    }
    const std::vector<qnn::CompiledContext> contexts = compiler.compile_together(files, soc, place, control);
    const MappedFile binary(contexts.front().binary);
    const std::string sha256 = sha256_hex(binary.bytes());
    binary.check();
    context_bytes_ += static_cast<std::int64_t>(binary.bytes().size());
    for (std::size_t i = 0; i < models.size(); ++i) {
      qnn::PackagedContext packaged{.soc = &soc,
                                    .source = qnn::model_file(*models[i]),
                                    .context = contexts[i],
                                    .sha256 = sha256,
                                    .program = {},
                                    .shares_binary = models.size() > 1};
      context_bytes_ += static_cast<std::int64_t>(fs::file_size(packaged.context.model));
      if (options_.as_pte) {
        packaged.program = models[i]->stem + ".pte";
        const auto methods =
            executorch::language_model_methods(model_, inputs_of(model_, settings_.cache, models[i]->step_tokens))
                .methods;
        context_bytes_ += qnn::write_pte(place / packaged.program, models[i]->graph, packaged, methods, control);
      }
      facts_.contexts.push_back(std::move(packaged));
    }
  }

  void add_warnings(std::vector<std::string>& warnings) const {
    warnings.insert(warnings.end(), missing_facts_.begin(), missing_facts_.end());
    if (lowered_->dynamic_as_weight_only) {
      warnings.emplace_back(
          "the NPU has no operator that quantizes activations at run time: mode dynamic stores integer weights and "
          "computes in FP16, as weight_only; --mode static computes in integers");
    }
    if (!is_static(config_) && settings_.arithmetic == qnn::OnnxDtype::kFloat) {
      warnings.emplace_back("the NPU computes floating point in FP16; FP32 values are for other runtimes");
    }
    if (!missing_.empty()) {
      warnings.push_back("no context binary was compiled: " + missing_);
    }
  }

  const Model& model_;
  BackendConfig config_;
  qnn::Options options_;
  qnn::LoweringSettings settings_;
  QuantizationResult quantization_;
  PositionValues positions_;
  DistinctTensors distinct_;
  std::unique_ptr<qnn::LoweredModel> lowered_;
  qnn::ManifestFacts facts_;
  std::vector<std::string> missing_facts_;  // of the language model
  std::string missing_;                     // of the vendor's compiler
  std::int64_t context_bytes_ = 0;
};

}  // namespace

QNNBackend::QNNBackend(BackendConfig config) : EdgeBackend(std::move(config)) {}

TargetArithmetic QNNBackend::arithmetic() const {
  using Half = TargetArithmetic::Half;
  TargetArithmetic target = arithmetic_of(config());
  const bool is_half = choose_settings(resolved(), qnn::parse_options(config())).arithmetic == qnn::OnnxDtype::kFloat16;
  target.half = is_half ? Half::kAlways : Half::kNever;
  return target;
}

void QNNBackend::check_config() const {
  check_formats(qnn::description(), quantization());
  choose_settings(resolved(), qnn::parse_options(config()));
  check_not_dynamic(config(), "leave it out: mode dynamic computes in floating point on the NPU");
}

void QNNBackend::check_target(const fs::path& target) const {
  if (const fs::path ending = without_slash(target).extension(); ending == ".pte" || ending == ".onnx") {
    throw Error(ErrorCode::kInvalidArgument, target.string(), "the QNN backend writes a folder, and this names a file",
                "leave out " + ending.string() + ", or use another --backend");
  }
  OutputFolder::check(target, qnn::is_package);
}

ExportMetadata QNNBackend::run(const Model& model, const CalibrationFindings& findings, const fs::path* target,
                               const RunControl& control) {
  QNNExport work(model, resolved(), findings, arithmetic());
  if (target != nullptr) {
    work.write(*target, control);
  }
  ExportMetadata metadata = work.metadata();
  metadata.dry_run = target == nullptr;
  return metadata;
}

}  // namespace diffulex_edge
