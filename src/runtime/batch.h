// What a run of the graph is about: the sequences of a batch, and values for all of their tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "diffulex_edge/model.h"
#include "diffulex_edge/runtime.h"

namespace diffulex_edge {

struct CalibrationData;

// One value of the graph for the whole batch: the sequences' tensors one behind the other, as rows [rows, width]. Where
// the first dimension is the sequence, a row is a token with all that it has (heads lie side by side); else it is the
// last dimension. What no sequence changes is a single row.
struct Activations {
  std::int64_t rows = 0;
  std::int64_t width = 0;
  std::vector<float> data;

  std::span<const float> row(std::int64_t index) const {
    return std::span(data).subspan(static_cast<std::size_t>(index * width), static_cast<std::size_t>(width));
  }
};

// A value's elements in the rows that a layer takes: of its weight's columns.
class InputRows {
 public:
  InputRows(std::int64_t width, std::span<const float> data) : width_(width), data_(data) {}
  InputRows(const Activations& x) : InputRows(x.width, x.data) {}  // NOLINT(google-explicit-constructor): its rows

  std::int64_t rows() const { return static_cast<std::int64_t>(data_.size()) / width_; }
  std::int64_t width() const { return width_; }
  std::span<const float> data() const { return data_; }
  std::span<const float> row(std::int64_t index) const {
    return data_.subspan(static_cast<std::size_t>(index * width_), static_cast<std::size_t>(width_));
  }

 private:
  std::int64_t width_;
  std::span<const float> data_;
};

// Sequences, or a module's inputs several times over, that go through the graph together.
struct Batch {
  // Where each sequence begins among the tokens; one more entry than sequences. A graph whose shapes are all fixed has
  // one "token" for each of its runs.
  std::vector<std::int64_t> offsets = {0};
  // The position of each sequence's first token.
  std::vector<std::int64_t> starts;
  // Where keys are kept: the sequence of the cache that each one is (empty: in order), and the position that its
  // attention ends before (empty: with its last token). What lies behind its last token is in the cache already.
  std::vector<std::size_t> cached_as;
  std::vector<std::int64_t> ends;
  // Of each sequence, whether its tokens see those before them only, in a graph without a mask (empty: of none).
  std::vector<bool> causal;
  // Of each token, what the graph's positions are (empty: starts[sequence] and those behind it).
  std::vector<std::int64_t> positions;
  // Of each of the graph's inputs, in the order of its nodes: the elements of all sequences. Integers are exact.
  std::vector<std::vector<float>> inputs;

  std::size_t sequences() const { return offsets.size() - 1; }
  std::int64_t tokens() const { return offsets.back(); }
  std::int64_t length(std::size_t sequence) const { return offsets[sequence + 1] - offsets[sequence]; }
  std::size_t cache_index(std::size_t sequence) const { return cached_as.empty() ? sequence : cached_as[sequence]; }
  std::int64_t position(std::size_t sequence, std::int64_t index) const {
    return positions.empty() ? starts[sequence] + index
                             : positions[static_cast<std::size_t>(offsets[sequence] + index)];
  }
  std::int64_t end(std::size_t sequence) const {
    return ends.empty() ? starts[sequence] + length(sequence) : ends[sequence];
  }
};

// For a model's one input. Without `starts`, all sequences begin at position 0. Errors: kInvalidArgument for an empty
// or too long sequence or batch, or a token id outside the vocabulary.
Batch make_batch(const Model& model, const TokenSequences& sequences, std::span<const std::int64_t> starts = {});
// For the data's sequences, or the runs of a module's graph. Errors: as above, and kInvalidArgument for inputs of other
// shapes than the graph's.
Batch make_batch(const Model& model, const CalibrationData& data);

}  // namespace diffulex_edge
