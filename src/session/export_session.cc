#include "diffulex_edge/export_session.h"

#include <iomanip>
#include <sstream>
#include <utility>

#include "backends/guarded_export.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/quantization_session.h"
#include "models/input_guard.h"
#include "session/bundle_folder.h"

namespace diffulex_edge {
namespace {

// The options, and whether the output can be what they make.
std::unique_ptr<EdgeBackend> checked_backend(const Model& model, const ExportRequest& request) {
  std::unique_ptr<EdgeBackend> backend = BackendRegistry::instance().create(request.backend, request.config);
  backend->check_config();
  if (!request.is_bundle && (!request.output.empty() || !request.dry_run)) {
    refuse_input_as_target(model, request.output);
    backend->check_target(request.output);
  }
  return backend;
}

void check_memory(double needed_mb, std::optional<double> most_mb) {
  if (most_mb && needed_mb > *most_mb) {
    std::ostringstream text;
    text << "the weights take " << std::fixed << std::setprecision(2) << needed_mb << " MB, more than "
         << std::defaultfloat << std::setprecision(6) << *most_mb;
    throw Error(ErrorCode::kUnsupported, "max_memory_mb", text.str(), "quantize further, or raise it");
  }
}

}  // namespace

struct ExportSession::State {
  std::unique_ptr<EdgeBackend> backend;
  BackendConfig config;  // as the backend reads it
  std::filesystem::path output;
  bool dry_run = false;
  std::optional<BundleFolder> bundle;
  QuantizationSession quantization;
  std::optional<CalibrationResult> calibration;

  ExportResult predict() const;
  ExportResult write(const RunControl& control) const;
};

ExportResult ExportSession::State::predict() const {
  ExportResult result = backend->dry_run(quantization.model(), quantization.findings());
  if (bundle && result.success) {
    result.metadata.bundle_bytes = bundle->predicted_bytes(result.metadata.file_bytes);
  }
  return result;
}

ExportResult ExportSession::State::write(const RunControl& control) const {
  const auto write_to = [&](const std::filesystem::path& artefact) {
    return backend->export_model(quantization.model(), artefact, control, quantization.findings());
  };
  if (!bundle) {
    return write_to(output);
  }
  ExportResult result;
  const std::int64_t bytes = bundle->write([&](const std::filesystem::path& artefact) {
    result = write_to(artefact);
    result.check();
  });
  result.metadata.bundle_bytes = bytes;
  return result;
}

ExportSession::ExportSession(Model model, ModelOptions options, ExportRequest request) {
  std::unique_ptr<EdgeBackend> backend = checked_backend(model, request);
  BackendConfig config = std::move(request.config);
  config.quant_config = backend->quantization();
  std::optional<BundleFolder> bundle;
  if (request.is_bundle) {
    bundle.emplace(model, request.backend, config, request.output);
  }
  QuantizationSession quantization(std::move(model), std::move(options),
                                   {.config = config.quant_config,
                                    .target = backend->arithmetic(),
                                    .calibration = std::move(request.calibration),
                                    .data = std::move(request.data),
                                    .known = std::move(request.known),
                                    .dry_run = request.dry_run},
                                   {.beside = request.output});
  if (quantization.can_use_calibration() || request.max_memory_mb) {
    // What lowering would refuse once calibration is done.
    const ExportResult predicted = backend->dry_run(quantization.original(), quantization.made_up_findings());
    predicted.check();
    check_memory(predicted.metadata.quantized_memory_mb, request.max_memory_mb);
  }
  state_ = std::make_unique<State>(State{.backend = std::move(backend),
                                         .config = std::move(config),
                                         .output = std::move(request.output),
                                         .dry_run = request.dry_run,
                                         .bundle = std::move(bundle),
                                         .quantization = std::move(quantization),
                                         .calibration = {}});
}

ExportSession::~ExportSession() = default;
ExportSession::ExportSession(ExportSession&&) noexcept = default;
ExportSession& ExportSession::operator=(ExportSession&&) noexcept = default;

ExportResult ExportSession::run(const RunControl& control) {
  const WatchedCallback callback(control);
  ExportResult result = caught([&] {
    QuantizationSession& quantization = state_->quantization;
    quantization.calibrate(callback.control());
    state_->calibration = quantization.calibration();
    return state_->dry_run ? state_->predict() : state_->write(callback.control());
  });
  callback.check();
  return result;
}

const Model& ExportSession::model() const { return state_->quantization.original(); }
const BackendConfig& ExportSession::config() const { return state_->config; }
const std::optional<CalibrationResult>& ExportSession::calibration() const { return state_->calibration; }

}  // namespace diffulex_edge
