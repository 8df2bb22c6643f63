#include "backends/xnnpack/weight_store.h"

#include <utility>

#include "core/round_up.h"
#include "quant/kernels/kernels.h"
#include "quant/weight_decoder.h"
#include "quant/weight_encoder.h"

namespace diffulex_edge::xnnpack {
namespace {

// XNNPACK may read this far beyond a constant that it does not pack.
constexpr std::int64_t kReadBeyond = 128;
constexpr std::int64_t kScalesAlignment = 16;

// A tied weight may be stored in several formats: each has a name of its own.
std::string name_of(const LayerPlan& plan, const WeightFormat& format) {
  return plan.tensor + ":" + to_string(format.element);
}

constexpr const char* kFilter = "filter";
constexpr const char* kEmbedding = "embedding";

}  // namespace

std::uint32_t WeightStore::add_segment(std::string name, std::int64_t size) {
  segments_.push_back({.name = std::move(name), .size = size});
  hashes_.push_back(std::make_unique<ContentHash>());
  return static_cast<std::uint32_t>(segments_.size() - 1);
}

WeightStore::Stream& WeightStore::find_or_add(const LayerPlan& plan, const WeightFormat& format, Layout layout,
                                              bool& is_new) {
  const auto [weight, inserted] = weights_.add(plan, format, layout == Layout::kFilter ? kFilter : kEmbedding);
  is_new = inserted;
  if (inserted) {
    streams_.push_back({.layout = layout, .parts = {.values_bytes = plan.rows * format.row_bytes(plan.columns)}});
  }
  return streams_[weight];
}

StoredParts WeightStore::add_filter(const LayerPlan& plan) {
  bool is_new = false;
  Stream& stream = find_or_add(plan, plan.format, Layout::kFilter, is_new);
  if (is_new) {
    stream.parts.values_segment = add_segment(name_of(plan, plan.format), stream.parts.values_bytes);
    stream.parts.scales_bytes = plan.scale_bytes();
    if (plan.format.granularity == Granularity::kGroup) {
      stream.parts.scales_segment = add_segment(name_of(plan, plan.format) + ":scale", plan.scale_bytes());
    }
  }
  StoredParts parts = stream.parts;
  parts.is_new = is_new;
  return parts;
}

StoredParts WeightStore::add_embedding(const LayerPlan& plan) {
  const bool packed = plan.format.bits() == 4;
  bool is_new = false;
  Stream& stream = find_or_add(plan, plan.format, packed ? Layout::kEmbedding : Layout::kFilter, is_new);
  const std::int64_t scales = plan.rows * plan.format.scales_per_row(plan.columns);
  if (is_new) {
    stream.parts.values_segment =
        add_segment(name_of(plan, plan.format) + (packed ? ":embedding" : ""), stream.parts.values_bytes);
    stream.parts.scales_bytes = plan.scale_bytes();
  }
  if (scales > 0 && !stream.appended_scales) {
    stream.appended_scales = true;
    stream.parts.scales_offset = round_up(stream.parts.values_bytes, kScalesAlignment);
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
    stream.parts.values_segment =
        add_segment(name_of(plan, float_format(element)), stream.parts.values_bytes + kReadBeyond);
  }
  StoredParts parts = stream.parts;
  parts.is_new = is_new;
  return parts;
}

std::uint32_t WeightStore::add_computed(const std::string& name, std::span<const std::byte> bytes) {
  std::vector<std::byte> padded(bytes.begin(), bytes.end());
  padded.resize(bytes.size() + kReadBeyond);
  return computed_.add(padded, [&](std::int64_t size) {
    const std::uint32_t segment = add_segment(name, size);
    segments_[segment].bytes = padded;
    return segment;
  });
}

void WeightStore::on_channel_scales(const LayerPlan& plan, ScaleReceiver receiver) {
  streams_[weights_.find(plan, plan.format, kFilter)].receivers.push_back(std::move(receiver));
}

std::vector<float> WeightStore::read_vector(const LayerPlan& plan) const {
  const StoredWeight source = find_stored_weight(checkpoint_, plan.tensor);
  std::vector<float> values(static_cast<std::size_t>(source.rows * source.columns));
  EncodeScratch scratch;
  encode_rows(source, float_format(ElementType::kF32), {}, 0, source.rows, scratch,
              std::as_writable_bytes(std::span(values)), {});
  return values;
}

void WeightStore::write_tile(std::size_t weight, const EncodedTile& tile, const Write& write) const {
  const Stream& stream = streams_[weight];
  const WeightFormat& format = weights_[weight].format;
  const StoredParts& parts = stream.parts;
  if (stream.layout == Layout::kEmbedding) {
    auto* nibbles = reinterpret_cast<std::uint8_t*>(tile.values.data());
    kernels::swap_nibbles(nibbles, nibbles, tile.values.size());
  }
  const auto row_bytes = static_cast<std::int64_t>(tile.values.size()) / tile.rows;
  write(parts.values_segment, tile.row_begin * row_bytes, tile.values);
  hashes_[parts.values_segment]->add(tile.row_begin, {tile.values, tile.scales});
  if (tile.scales.empty()) {
    return;
  }
  const std::int64_t first_scale = tile.row_begin * format.scales_per_row(weights_[weight].source.columns);
  if (parts.scales_segment) {
    write(*parts.scales_segment, first_scale * format.scale_bytes(), tile.scales);
    hashes_[*parts.scales_segment]->add(tile.row_begin, {tile.scales});
  }
  if (stream.appended_scales || !stream.receivers.empty()) {
    const std::vector<float> scales = load_scales(tile.scales, format.scale_type);
    if (stream.appended_scales) {
      write(parts.values_segment, parts.scales_offset + first_scale * 4, std::as_bytes(std::span(scales)));
    }
    for (const auto& receiver : stream.receivers) {
      receiver(first_scale, scales, tile.values);
    }
  }
}

void WeightStore::stream(const Write& write, const RunControl& control) const {
  const Write write_hashed = [&](std::uint32_t segment, std::int64_t offset, std::span<const std::byte> bytes) {
    hashes_[segment]->add(offset, {bytes});
    write(segment, offset, bytes);
  };
  for (std::uint32_t segment = 0; segment < segments_.size(); ++segment) {
    if (!segments_[segment].bytes.empty()) {
      write_hashed(segment, 0, segments_[segment].bytes);
    }
  }
  weights_.stream([&](std::size_t weight, const EncodedTile& tile) { write_tile(weight, tile, write); }, control);
  for (const auto& finish : finishers_) {
    finish(write_hashed);
  }
}

}  // namespace diffulex_edge::xnnpack
