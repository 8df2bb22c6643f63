// Plans, lowers and writes a .pte file.

#include <utility>

#include "backends/xnnpack/lowering.h"
#include "core/output_file.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kSegmentAlignment = 128;
constexpr double kMebibyte = 1024.0 * 1024.0;

std::int64_t align(std::int64_t value) {
  return (value + kSegmentAlignment - 1) / kSegmentAlignment * kSegmentAlignment;
}

// The file: program, weights' segments, and the delegate's payload as the last segment, since it holds scales that are
// known only when the weights have been streamed.
struct FileLayout {
  std::vector<std::byte> program;
  executorch::ProgramBuilder::Layout segments;

  std::int64_t base() const { return static_cast<std::int64_t>(program.size()); }
  std::int64_t file_bytes() const { return base() + segments.segments_end; }
};

FileLayout lay_out(const xnnpack::LoweredProgram& lowered) {
  FileLayout layout;
  auto& segments = layout.segments;
  segments.segment_alignment = kSegmentAlignment;
  std::int64_t end = 0;
  const auto place = [&](std::int64_t size) {
    const std::int64_t offset = align(end);
    segments.segments.push_back({.offset = offset, .size = size});
    end = offset + size;
  };
  for (const xnnpack::Segment& segment : lowered.weights.segments()) {
    segments.named.emplace_back(segment.key, static_cast<std::uint32_t>(segments.segments.size()));
    place(segment.size);
  }
  place(static_cast<std::int64_t>(lowered.delegate.serialize().size()));
  segments.segments_end = end;
  segments.constant_segment = lowered.constant_segment;
  segments.constant_offsets = lowered.constant_offsets;
  layout.program = lowered.program.serialize(segments);
  return layout;
}

void write_file(const xnnpack::LoweredProgram& lowered, const FileLayout& layout, const std::filesystem::path& target,
                const RunControl& control) {
  OutputFile file(target, layout.file_bytes());
  file.write(0, layout.program);
  const auto& segments = layout.segments.segments;
  const auto write = [&](std::uint32_t segment, std::int64_t offset, std::span<const std::byte> bytes) {
    file.write(layout.base() + segments[segment].offset + offset, bytes);
  };
  lowered.weights.stream(write, control);
  const std::vector<std::byte> payload = lowered.delegate.serialize();
  if (static_cast<std::int64_t>(payload.size()) != segments.back().size) {
    throw Error(ErrorCode::kInternal, target.string(), "the delegate's payload changed its size");
  }
  write(static_cast<std::uint32_t>(segments.size() - 1), 0, payload);
  file.flush(control.stop);
  file.commit();
}

ActivationDtype check_activation_dtype(const BackendConfig& config) {
  const ActivationDtype dtype = config.activation_dtype.value_or(ActivationDtype::FP32);
  if (dtype != ActivationDtype::FP32 && dtype != ActivationDtype::FP16) {
    throw Error(ErrorCode::kUnsupported, "activation dtype " + std::string(to_string(dtype)),
                "is not available with XNNPACK", "use --mode dynamic for 8-bit activations");
  }
  return dtype;
}

}  // namespace

ExportMetadata XNNPACKBackend::run(const Model& model, const std::filesystem::path* target, const RunControl& control) {
  if (!config().backend_options.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "backend option '" + config().backend_options.begin()->first + "'",
                "is not known to the XNNPACK backend");
  }
  const ActivationDtype activation_dtype = check_activation_dtype(config());
  const QuantizationResult quantization = quantize_model(model, config().quant_config);
  const auto lowered = xnnpack::lower(model, quantization, activation_dtype);
  const FileLayout layout = lay_out(*lowered);
  if (target != nullptr) {
    write_file(*lowered, layout, *target, control);
  }

  ExportMetadata metadata;
  metadata.method = "forward";
  metadata.seq_len = model.seq_len;
  metadata.activation_dtype = to_string(activation_dtype);
  metadata.parameters = quantization.parameters;
  metadata.original_memory_mb = quantization.original_memory_mb;
  metadata.file_bytes = layout.file_bytes();
  metadata.operators_outside_delegate = lowered->program.kernel_names();
  metadata.layers = lowered->layers;
  metadata.warnings = model.warnings;
  metadata.warnings.insert(metadata.warnings.end(), lowered->warnings.begin(), lowered->warnings.end());
  std::int64_t stored = 0;
  for (const StoredLayer& layer : metadata.layers) {
    stored += layer.stored_bytes;
  }
  metadata.quantized_memory_mb = static_cast<double>(stored) / kMebibyte;
  return metadata;
}

Support XNNPACKBackend::support(QuantizationDtype dtype, QuantizationMode mode) const {
  switch (dtype) {
    case QuantizationDtype::FP32:
      return {SupportLevel::kFull, "f32 x f32"};
    case QuantizationDtype::FP16:
      return {SupportLevel::kFull, "f32 x f16, or f16 throughout with --activation-dtype fp16"};
    case QuantizationDtype::INT8:
      if (mode == QuantizationMode::STATIC) {
        return {SupportLevel::kUnsupported, "needs calibration, which this version does not have"};
      }
      return {SupportLevel::kFull, mode == QuantizationMode::DYNAMIC ? "qd8 x qc8w" : "f32 x qc8w"};
    case QuantizationDtype::INT4:
      if (mode == QuantizationMode::STATIC) {
        return {SupportLevel::kUnsupported, "needs calibration, which this version does not have"};
      }
      return {SupportLevel::kFull, "groups: qd8 x qb4w (activations in 8 bits); per channel: f32 or qd8 x qc4w"};
  }
  return {};
}

}  // namespace diffulex_edge
