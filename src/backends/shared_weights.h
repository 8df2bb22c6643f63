// What the weight stores of all backends have in common, beneath their layouts: which weights are equal and stored
// once, how they are streamed, and where parts of a file begin.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "checkpoint/distinct_tensors.h"
#include "checkpoint/stored_weight.h"
#include "core/round_up.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"
#include "quant/weight_stream.h"

namespace diffulex_edge {

// Weights to be streamed, by number.
class SharedWeights {
 public:
  struct Weight {
    StoredWeight source;
    WeightFormat format;  // in which it is encoded, before its parts take the form of a layout
    RoundingMethod method = RoundingMethod::RTN;
    std::string layer;              // the first that uses it
    std::vector<float> importance;  // of its columns, for a format with tables
  };

  // Keeps references to both.
  SharedWeights(const Checkpoint& checkpoint, DistinctTensors& distinct, bool saturate_fp16)
      : checkpoint_(checkpoint), distinct_(distinct), saturate_fp16_(saturate_fp16) {}

  // The number of the layer's weight in `format`, and whether it is new: the number is that of an equal weight, where
  // one was added in the same format, rounded by the same method, for the same `layout`, which is the caller's word.
  std::pair<std::size_t, bool> add(const LayerPlan& plan, const WeightFormat& format, std::string_view layout);
  // Of a weight that was added.
  std::size_t find(const LayerPlan& plan, const WeightFormat& format, std::string_view layout) const;

  std::size_t size() const { return weights_.size(); }
  const Weight& operator[](std::size_t weight) const { return weights_[weight]; }

  // Encodes all weights, or those that `is_wanted`, and calls sink(weight, tile) from several threads. Errors: as
  // stream_weights.
  using Sink = std::function<void(std::size_t weight, const EncodedTile& tile)>;
  void stream(const Sink& sink, const RunControl& control,
              const std::function<bool(std::size_t weight)>& is_wanted = {}) const;

 private:
  using Key = std::tuple<std::string, std::string, std::string>;  // content, format and method, layout
  Key key_of(const LayerPlan& plan, const WeightFormat& format, std::string_view layout) const;

  const Checkpoint& checkpoint_;
  DistinctTensors& distinct_;
  bool saturate_fp16_;
  std::vector<Weight> weights_;
  std::map<Key, std::size_t> by_key_;
};

// Computed data, equal ones once. `Place` says where they are.
template <typename Place>
class SharedData {
 public:
  // place(size) makes the place of data that are new.
  template <typename MakePlace>
  Place add(std::vector<std::byte> bytes, const MakePlace& place) {
    const auto [position, inserted] = places_.emplace(std::move(bytes), Place{});
    if (inserted) {
      position->second = place(static_cast<std::int64_t>(position->first.size()));
    }
    return position->second;
  }

  // Bytes and their place, in an order that depends on the bytes only.
  const std::map<std::vector<std::byte>, Place>& places() const { return places_; }

 private:
  std::map<std::vector<std::byte>, Place> places_;
};

// Parts of a file, one behind the other.
class FileSpace {
 public:
  explicit FileSpace(std::int64_t alignment, std::int64_t begin = 0) : alignment_(alignment), end_(begin) {}

  // Where `bytes` more begin.
  std::int64_t reserve(std::int64_t bytes) {
    const std::int64_t offset = round_up(end_, alignment_);
    end_ = offset + bytes;
    return offset;
  }
  std::int64_t end() const { return end_; }

 private:
  std::int64_t alignment_;
  std::int64_t end_;
};

}  // namespace diffulex_edge
