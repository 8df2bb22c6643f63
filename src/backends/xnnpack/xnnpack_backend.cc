// Plans, lowers and writes a .pte file.

#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include "backends/cache_plan.h"
#include "backends/executorch/language_model_methods.h"
#include "backends/export_config.h"
#include "backends/option_values.h"
#include "backends/xnnpack/description.h"
#include "backends/xnnpack/lowering.h"
#include "core/output_file.h"
#include "core/round_up.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/xnnpack_backend.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kMaxRank = 6;  // XNN_MAX_TENSOR_DIMS: a program with more does not load

constexpr std::int64_t kSegmentAlignment = 128;

// The file: program; what the program's constant tensors are; the weights that the delegate packs; and the delegate's
// payload last, since it holds scales that are known only when the weights have been streamed.
struct FileLayout {
  std::vector<std::byte> program;
  executorch::ProgramBuilder::Layout segments;

  std::int64_t base() const { return static_cast<std::int64_t>(program.size()); }
  std::int64_t file_bytes() const { return base() + segments.segments_end; }
};

// A program has one segment of constants, which stays in memory as long as the program does. Its parts lie side by
// side, so that the segment that spans them holds nothing else.
void place_segments(const xnnpack::LoweredProgram& lowered, executorch::ProgramBuilder::Layout& layout) {
  const std::vector<xnnpack::Segment>& weights = lowered.weights.segments();
  std::vector<bool> is_constant(weights.size(), false);
  for (const auto& constant : lowered.constants) {
    is_constant[constant.segment] = true;
  }
  layout.first_payload = static_cast<std::uint32_t>(weights.size());
  layout.segments.resize(weights.size() + lowered.delegates.size());
  const auto place = [&](std::size_t segment, std::int64_t size) {
    layout.segments[segment] = {.offset = round_up(layout.segments_end, kSegmentAlignment), .size = size};
    layout.segments_end = layout.segments[segment].offset + size;
  };
  for (const bool constants : {true, false}) {
    for (std::size_t i = 0; i < weights.size(); ++i) {
      if (is_constant[i] == constants) {
        place(i, weights[i].size);
      }
    }
    if (constants && !lowered.constants.empty()) {
      layout.constant_segment = static_cast<std::uint32_t>(layout.segments.size());
      layout.segments.push_back({.offset = 0, .size = layout.segments_end});
    }
  }
  for (std::size_t i = 0; i < lowered.delegates.size(); ++i) {
    place(weights.size() + i, static_cast<std::int64_t>(lowered.delegates[i].serialize().size()));
  }
  layout.constant_offsets = {0};  // the format leaves entry 0 unused
  for (const auto& [segment, offset] : lowered.constants) {
    layout.constant_offsets.push_back(static_cast<std::uint64_t>(layout.segments[segment].offset + offset));
  }
}

std::vector<std::byte> serialize_program(const xnnpack::LoweredProgram& lowered,
                                         executorch::ProgramBuilder::Layout segments) {
  for (const auto& constant : lowered.named) {
    segments.named.emplace_back(constant.name, constant.segment);
  }
  return lowered.program.serialize(segments);
}

FileLayout lay_out(const xnnpack::LoweredProgram& lowered) {
  FileLayout layout;
  layout.segments.segment_alignment = kSegmentAlignment;
  place_segments(lowered, layout.segments);
  layout.program = serialize_program(lowered, layout.segments);
  return layout;
}

void write_file(xnnpack::LoweredProgram& lowered, const FileLayout& layout, const std::filesystem::path& target,
                const RunControl& control) {
  OutputFile file(target, layout.file_bytes());
  const auto& segments = layout.segments.segments;
  const auto write = [&](std::uint32_t segment, std::int64_t offset, std::span<const std::byte> bytes) {
    file.write(layout.base() + segments[segment].offset + offset, bytes);
  };
  lowered.weights.stream(write, control);
  xnnpack::name_by_content(lowered);
  const std::vector<std::byte> program = serialize_program(lowered, layout.segments);
  bool has_its_size = program.size() == layout.program.size();
  for (std::uint32_t i = 0; i < lowered.delegates.size(); ++i) {
    const std::vector<std::byte> payload = lowered.delegates[i].serialize();
    const std::uint32_t segment = layout.segments.first_payload + i;
    has_its_size = has_its_size && static_cast<std::int64_t>(payload.size()) == segments[segment].size;
    if (has_its_size) {
      write(segment, 0, payload);
    }
  }
  if (!has_its_size) {
    throw Error(ErrorCode::kInternal, target.string(), "the program changed its size while weights were written");
  }
  file.write(0, program);
  file.flush(control.stop);
  file.commit();
}

void add_metadata(const Model& model, const std::optional<CachePlan>& cache, xnnpack::LoweredProgram& lowered) {
  const auto [methods, warnings] =
      executorch::language_model_methods(model, executorch::program_inputs(model, cache, true));
  lowered.program.add_constant_methods(methods);
  lowered.warnings.insert(lowered.warnings.end(), warnings.begin(), warnings.end());
}

void check_activation_dtype(const BackendConfig& config) {
  if (config.activation_dtype == ActivationDtype::INT16) {
    throw Error(ErrorCode::kUnsupported, "activation dtype int16", "is not available with XNNPACK",
                "use --mode static or dynamic for 8-bit activations");
  }
  check_not_dynamic(config, "leave it out: mode dynamic has 8-bit activations of its own");
}

}  // namespace

XNNPACKBackend::XNNPACKBackend(BackendConfig config) : EdgeBackend(std::move(config)) {}

TargetArithmetic XNNPACKBackend::arithmetic() const {
  using Half = TargetArithmetic::Half;
  return {.half = config().activation_dtype == ActivationDtype::FP16 ? Half::kFP16Weights : Half::kNever};
}

void XNNPACKBackend::check_config() const {
  check_options(xnnpack::description(), config().backend_options);
  check_formats(xnnpack::description(), quantization());
  if (config().input_lengths && config().input_lengths->kind != InputLengths::Kind::kFixed) {
    throw Error(ErrorCode::kInvalidArgument, "sequence length", "XNNPACK takes every length up to one number of tokens",
                "give only the longest");
  }
  check_activation_dtype(config());
}

void XNNPACKBackend::check_target(const std::filesystem::path& target) const { OutputFile::check(target); }

ExportMetadata XNNPACKBackend::run(const Model& model, const CalibrationFindings& findings,
                                   const std::filesystem::path* target, const RunControl& control) {
  const ActivationDtype activation_dtype = config().activation_dtype.value_or(ActivationDtype::FP32);
  check_rank(model, kMaxRank, "XNNPACK");
  const QuantizationResult quantized = quantize_model(model, quantization(), findings, arithmetic());
  check_takes_integers(config(), has_static_layer(quantized.plan), "XNNPACK");
  const OptionValues options(xnnpack::description(), config().backend_options);
  const std::optional<CachePlan> cache = read_cache_plan(options, model);
  const auto lowered = xnnpack::lower(model, quantized, cache);
  add_metadata(model, cache, *lowered);
  const FileLayout layout = lay_out(*lowered);
  if (target != nullptr) {
    write_file(*lowered, layout, *target, control);
  }

  ExportMetadata metadata = describe_export(model, quantized, lowered->layers, lowered->warnings);
  metadata.method = "forward";
  metadata.activation_dtype = to_string(activation_dtype);
  metadata.file_bytes = layout.file_bytes();
  metadata.operators_outside_delegate = lowered->program.kernel_names();
  if (cache) {
    metadata.seq_len = cache->block_tokens;
    metadata.cache = ArtefactCache{.tokens = cache->tokens,
                                   .dtype = std::string(options.text("cache_dtype")),
                                   .bytes = lowered->program.buffer_bytes()};
  }
  return metadata;
}

}  // namespace diffulex_edge
