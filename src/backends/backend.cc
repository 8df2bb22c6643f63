// What all backends share: the facade that turns errors into results.

#include "diffulex_edge/backend.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <mutex>
#include <utility>

#include "backends/export_config.h"
#include "backends/guarded_export.h"
#include "core/join.h"
#include "core/process_memory.h"
#include "models/input_guard.h"

namespace diffulex_edge {
namespace {

constexpr std::array kActivationDtypes = {
    std::pair{ActivationDtype::FP32, std::string_view("fp32")},
    std::pair{ActivationDtype::FP16, std::string_view("fp16")},
    std::pair{ActivationDtype::INT16, std::string_view("int16")},
    std::pair{ActivationDtype::INT8, std::string_view("int8")},
};

}  // namespace

std::string_view to_string(ActivationDtype dtype) {
  return std::ranges::find(kActivationDtypes, dtype, [](const auto& entry) { return entry.first; })->second;
}

ActivationDtype parse_activation_dtype(std::string_view text) {
  const auto found = std::ranges::find(kActivationDtypes, text, [](const auto& entry) { return entry.second; });
  if (found == kActivationDtypes.end()) {
    throw Error(ErrorCode::kInvalidArgument, "activation dtype",
                "'" + std::string(text) + "' is not one of fp32, fp16, int16, int8");
  }
  return found->first;
}

namespace {

std::int64_t parse_length(std::string_view text, std::string_view whole) {
  std::int64_t length = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
  if (error != std::errc() || end != text.data() + text.size() || length < 1) {
    throw Error(
        ErrorCode::kInvalidArgument, "sequence length",
        "'" + std::string(whole) + "' is not a number of tokens, several with commas, or a range such as 8..512");
  }
  return length;
}

}  // namespace

InputLengths parse_input_lengths(std::string_view text) {
  InputLengths result;
  const std::size_t dots = text.find("..");
  if (dots != std::string_view::npos) {
    result.kind = InputLengths::Kind::kRange;
    result.lengths = {parse_length(text.substr(0, dots), text), parse_length(text.substr(dots + 2), text)};
    if (result.lengths[0] >= result.lengths[1]) {
      throw Error(ErrorCode::kInvalidArgument, "sequence length",
                  "the range '" + std::string(text) + "' has no lengths between its ends");
    }
    return result;
  }
  for (std::string_view rest = text;;) {
    const std::size_t comma = rest.find(',');
    result.lengths.push_back(parse_length(rest.substr(0, comma), text));
    if (comma == std::string_view::npos) {
      break;
    }
    rest.remove_prefix(comma + 1);
  }
  std::ranges::sort(result.lengths);
  if (std::ranges::adjacent_find(result.lengths) != result.lengths.end()) {
    throw Error(ErrorCode::kInvalidArgument, "sequence length", "'" + std::string(text) + "' names a length twice");
  }
  result.kind = result.lengths.size() == 1 ? InputLengths::Kind::kFixed : InputLengths::Kind::kEnumerated;
  return result;
}

std::string to_string(const InputLengths& lengths) {
  return join(lengths.lengths, lengths.kind == InputLengths::Kind::kRange ? ".." : ",",
              [](std::int64_t length) { return std::to_string(length); });
}

double ExportMetadata::memory_reduction_pct() const {
  return original_memory_mb > 0.0 ? 100.0 * (1.0 - quantized_memory_mb / original_memory_mb) : 0.0;
}

double ExportMetadata::compression_ratio() const {
  return quantized_memory_mb > 0.0 ? original_memory_mb / quantized_memory_mb : 1.0;
}

void ExportResult::check() const {
  if (error) {
    throw Error(error->code(), error->where(), error->problem(), error->advice());
  }
}

ExportResult EdgeBackend::guarded(const std::function<ExportMetadata()>& work) const {
  const auto start = std::chrono::steady_clock::now();
  ExportResult result = caught([&] {
    ExportResult done;
    done.metadata = work();
    done.success = true;
    return done;
  });
  result.metadata.backend = name();
  result.metadata.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.metadata.peak_rss_bytes = peak_rss_bytes();
  return result;
}

QuantizationConfig EdgeBackend::quantization() const {
  QuantizationConfig wanted = config_.quant_config;
  if (wants_integer_activations(config_) && wanted.mode == QuantizationMode::WEIGHT_ONLY) {
    wanted.mode = QuantizationMode::STATIC;
  }
  return wanted;
}

BackendConfig EdgeBackend::resolved() const {
  BackendConfig config = config_;
  config.quant_config = quantization();
  return config;
}

ExportResult EdgeBackend::export_model(const Model& model, const std::filesystem::path& target,
                                       const RunControl& control, const CalibrationFindings& findings) {
  const WatchedCallback callback(control);
  ExportResult result = guarded([&] {
    refuse_input_as_target(model, target);
    check_config();
    check_target(target);
    return run(model, findings, &target, callback.control());
  });
  callback.check();
  return result;
}

ExportResult EdgeBackend::dry_run(const Model& model, const CalibrationFindings& findings) {
  ExportResult result = guarded([&] {
    check_config();
    return run(model, findings, nullptr, {});
  });
  result.metadata.dry_run = true;
  return result;
}

SizePredictor size_predictor(const Model& model, std::string backend, BackendConfig config,
                             CalibrationFindings findings) {
  return [&model, backend = std::move(backend), config = std::move(config),
          findings = std::move(findings)](const QuantizationConfig& quantization) {
    BackendConfig wanted = config;
    wanted.quant_config = quantization;
    const ExportResult result = BackendRegistry::instance().create(backend, wanted)->dry_run(model, findings);
    result.check();
    ArtefactSizes sizes{.total = result.metadata.file_bytes, .layers = {}};
    for (const StoredLayer& layer : result.metadata.layers) {
      if (layer.plan.role == LayerRole::kLinear || layer.plan.role == LayerRole::kEmbedding) {
        sizes.layers[layer.plan.layer] += layer.stored_bytes;
      }
    }
    return sizes;
  };
}

}  // namespace diffulex_edge
