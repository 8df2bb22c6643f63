#include "backends/xnnpack/weight_store.h"

#include <utility>

#include "quant/kernels/kernels.h"
#include "quant/weight_decoder.h"
#include "quant/weight_encoder.h"

namespace diffulex_edge::xnnpack {
namespace {

// XNNPACK may read this far beyond a constant that it does not pack.
constexpr std::int64_t kReadBeyond = 128;
constexpr std::int64_t kScalesAlignment = 16;

std::int64_t align(std::int64_t value, std::int64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// A tied weight may be stored in several formats: each has a name of its own.
std::string key_of(const LayerPlan& plan, const WeightFormat& format) {
  return plan.tensor + ":" + to_string(format.element);
}

// What two uses of a weight must share to be stored once.
std::string format_of(const LayerPlan& plan, const WeightFormat& format) {
  return to_string(format) + ", " + std::string(to_string(plan.method));
}

}  // namespace

std::uint32_t WeightStore::add_segment(std::string key, std::int64_t size) {
  segments_.push_back({.key = std::move(key), .size = size});
  return static_cast<std::uint32_t>(segments_.size() - 1);
}

WeightStore::Stream& WeightStore::find_or_add(const LayerPlan& plan, const WeightFormat& format, Layout layout,
                                              bool& is_new) {
  const Key key(distinct_.content_of(plan.tensor), format_of(plan, format), layout);
  const auto [position, inserted] = by_key_.emplace(key, streams_.size());
  is_new = inserted;
  if (inserted) {
    Stream stream;
    stream.source = find_stored_weight(checkpoint_, plan.tensor);
    stream.format = format;
    stream.method = plan.method;
    stream.layout = layout;
    stream.parts.values_bytes = plan.rows * format.row_bytes(plan.columns);
    streams_.push_back(std::move(stream));
  }
  return streams_[position->second];
}

StoredParts WeightStore::add_filter(const LayerPlan& plan) {
  bool is_new = false;
  Stream& stream = find_or_add(plan, plan.format, Layout::kFilter, is_new);
  if (is_new) {
    stream.parts.values_segment = add_segment(key_of(plan, plan.format), stream.parts.values_bytes);
    stream.parts.scales_bytes = plan.scale_bytes();
    if (plan.format.granularity == Granularity::kGroup) {
      stream.parts.scales_segment = add_segment(key_of(plan, plan.format) + ":scale", plan.scale_bytes());
    }
  }
  StoredParts parts = stream.parts;
  parts.is_new = is_new;
  return parts;
}

StoredParts WeightStore::add_embedding(const LayerPlan& plan) {
  const bool packed = plan.format.element == ElementType::kI4;
  bool is_new = false;
  Stream& stream = find_or_add(plan, plan.format, packed ? Layout::kEmbedding : Layout::kFilter, is_new);
  const std::int64_t scales = plan.rows * plan.format.scales_per_row(plan.columns);
  if (is_new) {
    stream.parts.values_segment =
        add_segment(key_of(plan, plan.format) + (packed ? ":embedding" : ""), stream.parts.values_bytes);
    stream.parts.scales_bytes = plan.scale_bytes();
  }
  if (scales > 0 && !stream.appended_scales) {
    stream.appended_scales = true;
    stream.parts.scales_offset = align(stream.parts.values_bytes, kScalesAlignment);
    stream.parts.scales_bytes = scales * 4;
    segments_[stream.parts.values_segment].size = stream.parts.scales_offset + scales * 4;
  }
  StoredParts parts = stream.parts;
  parts.is_new = is_new;
  return parts;
}

StoredParts WeightStore::add_vector(const LayerPlan& plan, ElementType element) {
  bool is_new = false;
  Stream& stream = find_or_add(plan, float_format(element), Layout::kFilter, is_new);
  if (is_new) {
    stream.parts.values_segment = add_segment(key_of(plan, stream.format), stream.parts.values_bytes + kReadBeyond);
  }
  StoredParts parts = stream.parts;
  parts.is_new = is_new;
  return parts;
}

std::uint32_t WeightStore::add_computed(const std::string& key, std::span<const std::byte> bytes) {
  std::vector<std::byte> padded(bytes.begin(), bytes.end());
  padded.resize(bytes.size() + kReadBeyond);
  const auto [position, inserted] = computed_.emplace(padded, static_cast<std::uint32_t>(segments_.size()));
  if (inserted) {
    const std::uint32_t segment = add_segment(key, static_cast<std::int64_t>(padded.size()));
    segments_[segment].bytes = std::move(padded);
  }
  return position->second;
}

void WeightStore::on_channel_scales(const LayerPlan& plan, ScaleReceiver receiver) {
  const Key key(distinct_.content_of(plan.tensor), format_of(plan, plan.format), Layout::kFilter);
  streams_[by_key_.at(key)].receivers.push_back(std::move(receiver));
}

std::vector<float> WeightStore::read_vector(const LayerPlan& plan) const {
  const StoredWeight source = find_stored_weight(checkpoint_, plan.tensor);
  std::vector<float> values(static_cast<std::size_t>(source.rows * source.columns));
  EncodeScratch scratch;
  encode_rows(source, float_format(ElementType::kF32), {}, 0, source.rows, scratch,
              std::as_writable_bytes(std::span(values)), {});
  return values;
}

void WeightStore::write_tile(const Stream& stream, const EncodedTile& tile, const Write& write) {
  const StoredParts& parts = stream.parts;
  if (stream.layout == Layout::kEmbedding) {
    auto* nibbles = reinterpret_cast<std::uint8_t*>(tile.values.data());
    kernels::swap_nibbles(nibbles, nibbles, tile.values.size());
  }
  const auto row_bytes = static_cast<std::int64_t>(tile.values.size()) / tile.rows;
  write(parts.values_segment, tile.row_begin * row_bytes, tile.values);
  if (tile.scales.empty()) {
    return;
  }
  const std::int64_t first_scale = tile.row_begin * stream.format.scales_per_row(stream.source.columns);
  if (parts.scales_segment) {
    write(*parts.scales_segment, first_scale * stream.format.scale_bytes(), tile.scales);
  }
  if (stream.appended_scales || !stream.receivers.empty()) {
    const std::vector<float> scales = load_scales(tile.scales, stream.format.scale_type);
    if (stream.appended_scales) {
      write(parts.values_segment, parts.scales_offset + first_scale * 4, std::as_bytes(std::span(scales)));
    }
    for (const auto& receiver : stream.receivers) {
      receiver(first_scale, scales, tile.values);
    }
  }
}

void WeightStore::stream(const Write& write, const RunControl& control) const {
  for (std::uint32_t segment = 0; segment < segments_.size(); ++segment) {
    if (!segments_[segment].bytes.empty()) {
      write(segment, 0, segments_[segment].bytes);
    }
  }
  std::vector<StreamJob> jobs;
  for (const Stream& stream : streams_) {
    jobs.push_back({.source = stream.source,
                    .format = stream.format,
                    .method = stream.method,
                    .saturate_fp16 = saturate_fp16_,
                    .sink = [&stream, &write](const EncodedTile& tile) { write_tile(stream, tile, write); }});
  }
  stream_weights(jobs, control);
  for (const auto& finish : finishers_) {
    finish(write);
  }
}

}  // namespace diffulex_edge::xnnpack
