// Plans, lowers and writes a .pte file.

#include <algorithm>
#include <utility>

#include "backends/export_config.h"
#include "backends/xnnpack/lowering.h"
#include "core/output_file.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kSegmentAlignment = 128;

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

// A program has one segment of constants. Where several segments have some, it is one more that spans them.
void place_constants(const xnnpack::LoweredProgram& lowered, executorch::ProgramBuilder::Layout& layout) {
  layout.constant_offsets = {0};  // the format leaves entry 0 unused
  if (lowered.constants.empty()) {
    return;
  }
  const auto [first, last] = std::ranges::minmax(lowered.constants, {}, &xnnpack::LoweredProgram::Constant::segment);
  const std::int64_t begin = layout.segments[first.segment].offset;
  const std::int64_t end = layout.segments[last.segment].offset + layout.segments[last.segment].size;
  layout.constant_segment = first.segment;
  if (first.segment != last.segment) {
    layout.constant_segment = static_cast<std::uint32_t>(layout.segments.size());
    layout.segments.push_back({.offset = begin, .size = end - begin});
  }
  for (const auto& [segment, offset] : lowered.constants) {
    layout.constant_offsets.push_back(static_cast<std::uint64_t>(layout.segments[segment].offset - begin + offset));
  }
}

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
  place_constants(lowered, segments);
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
  const std::size_t payload_segment = lowered.weights.segments().size();
  if (static_cast<std::int64_t>(payload.size()) != segments[payload_segment].size) {
    throw Error(ErrorCode::kInternal, target.string(), "the delegate's payload changed its size");
  }
  write(static_cast<std::uint32_t>(payload_segment), 0, payload);
  file.flush(control.stop);
  file.commit();
}

void check_activation_dtype(const BackendConfig& config) {
  if (config.activation_dtype == ActivationDtype::INT16) {
    throw Error(ErrorCode::kUnsupported, "activation dtype int16", "is not available with XNNPACK",
                "use --mode static or dynamic for 8-bit activations");
  }
  check_not_dynamic(config, "leave it out: mode dynamic has 8-bit activations of its own");
}

}  // namespace

XNNPACKBackend::XNNPACKBackend(BackendConfig config) : EdgeBackend(with_static_mode(std::move(config))) {}

void XNNPACKBackend::check_config() const {
  if (!config().backend_options.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "backend option '" + config().backend_options.begin()->first + "'",
                "is not known to the XNNPACK backend");
  }
  if (config().input_lengths && config().input_lengths->kind != InputLengths::Kind::kFixed) {
    throw Error(ErrorCode::kInvalidArgument, "sequence length", "XNNPACK takes every length up to one number of tokens",
                "give the longest alone");
  }
  check_activation_dtype(config());
}

ExportMetadata XNNPACKBackend::run(const Model& model, const std::filesystem::path* target, const RunControl& control) {
  const ActivationDtype activation_dtype = config().activation_dtype.value_or(ActivationDtype::FP32);
  const QuantizationResult quantization = quantize_model(model, config().quant_config);
  check_takes_integers(config(), has_static_layer(quantization.plan), "XNNPACK");
  const auto lowered = xnnpack::lower(model, quantization, activation_dtype);
  const FileLayout layout = lay_out(*lowered);
  if (target != nullptr) {
    write_file(*lowered, layout, *target, control);
  }

  ExportMetadata metadata = describe_export(model, quantization, lowered->layers, lowered->warnings);
  metadata.method = "forward";
  metadata.activation_dtype = to_string(activation_dtype);
  metadata.file_bytes = layout.file_bytes();
  metadata.operators_outside_delegate = lowered->program.kernel_names();
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
        return {SupportLevel::kFull, "qs8 x qc8w, with ranges from calibration"};
      }
      return {SupportLevel::kFull, mode == QuantizationMode::DYNAMIC ? "qd8 x qc8w" : "f32 x qc8w"};
    case QuantizationDtype::INT4:
      if (mode == QuantizationMode::STATIC) {
        return {SupportLevel::kPartial, "per channel: qs8 x qc4w, with ranges from calibration; none for groups"};
      }
      return {SupportLevel::kFull, "groups: qd8 x qb4w (activations in 8 bits); per channel: f32 or qd8 x qc4w"};
  }
  return {};
}

}  // namespace diffulex_edge
