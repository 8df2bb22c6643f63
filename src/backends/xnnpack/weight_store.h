// The artefact's data segments: which weights are stored, in which layout, shared where equal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backends/shared_weights.h"
#include "core/content_hash.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge::xnnpack {

// One segment. Streamed parts are zero until `stream` fills them.
struct Segment {
  std::string name;  // the tensor's in the checkpoint and its format, "model.norm.weight:f32"
  std::int64_t size = 0;
  std::vector<std::byte> bytes;  // known from the start; empty where the segment is streamed
};

// Where a stored weight's parts are.
struct StoredParts {
  std::uint32_t values_segment = 0;
  std::int64_t values_bytes = 0;
  std::optional<std::uint32_t> scales_segment;  // bfloat16 group scales of a linear layer
  std::int64_t scales_bytes = 0;
  std::int64_t scales_offset = 0;  // embeddings: float32 scales in the values' segment
  bool is_new = true;              // false: an equal weight in this layout was stored before
};

class WeightStore {
 public:
  WeightStore(const Checkpoint& checkpoint, bool saturate_fp16)
      : checkpoint_(checkpoint),
        distinct_(std::make_unique<DistinctTensors>(checkpoint)),
        weights_(checkpoint, *distinct_, saturate_fp16) {}

  // A linear layer's matrix, as XNNPACK's filters want it: even elements in the low nibble, bfloat16 group scales in a
  // segment of their own. Per-channel scales go to `channel_scales` of the receiver that `on_channel_scales` names.
  StoredParts add_filter(const LayerPlan& plan);
  // An embedding table, as ExecuTorch's operators want it: even elements in the high nibble, float32 scales behind the
  // values. FP32, FP16 and INT8 tables have the bytes of a filter and share its segment.
  StoredParts add_embedding(const LayerPlan& plan);
  // A vector in float format, with the room behind it that XNNPACK may read beyond the end of an unpacked constant.
  StoredParts add_vector(const LayerPlan& plan, ElementType element);
  // Small computed data, with the same room behind it. Equal bytes share a segment.
  std::uint32_t add_computed(const std::string& name, std::span<const std::byte> bytes);

  // Room for `size` bytes that are known only when the weights have been streamed, to be written by on_streamed.
  std::uint32_t add_reserved(std::string name, std::int64_t size) { return add_segment(std::move(name), size); }

  // Receives the float32 scales of the filter stored by the last add_filter, and the rows that they belong to as
  // stored, tile by tile while streaming.
  using ScaleReceiver =
      std::function<void(std::int64_t row, std::span<const float> scales, std::span<const std::byte> values)>;
  void on_channel_scales(const LayerPlan& plan, ScaleReceiver receiver);
  // Called once, when every weight has been streamed.
  using Write = std::function<void(std::uint32_t segment, std::int64_t offset, std::span<const std::byte> bytes)>;
  void on_streamed(std::function<void(const Write&)> finish) { finishers_.push_back(std::move(finish)); }

  // A bias in float32.
  std::vector<float> read_vector(const LayerPlan& plan) const;

  const std::vector<Segment>& segments() const { return segments_; }

  // Streams every weight; write(segment, offset in it, bytes) is called from several threads.
  void stream(const Write& write, const RunControl& control) const;
  // After `stream`: of a segment's bytes and, for a linear layer's values, of the scales that they are counted in.
  ContentDigest content(std::uint32_t segment) const { return hashes_.at(segment)->digest(); }

 private:
  enum class Layout { kFilter, kEmbedding };
  struct Stream {
    Layout layout = Layout::kFilter;
    StoredParts parts;
    bool appended_scales = false;
    std::vector<ScaleReceiver> receivers;
  };

  Stream& find_or_add(const LayerPlan& plan, const WeightFormat& format, Layout layout, bool& is_new);
  std::uint32_t add_segment(std::string name, std::int64_t size);
  void write_tile(std::size_t weight, const EncodedTile& tile, const Write& write) const;

  const Checkpoint& checkpoint_;
  std::unique_ptr<DistinctTensors> distinct_;
  SharedWeights weights_;
  std::vector<Stream> streams_;  // of each weight
  std::vector<Segment> segments_;
  std::vector<std::unique_ptr<ContentHash>> hashes_;  // of each segment
  SharedData<std::uint32_t> computed_;                // segments
  std::vector<std::function<void(const Write&)>> finishers_;
};

}  // namespace diffulex_edge::xnnpack
