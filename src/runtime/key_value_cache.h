// Keys and values of tokens that went through the graph before, for attention to read again: room for a fixed number of
// sequences and tokens, taken once.
//
// Exact for block-causal models where a sequence goes on at the border of a block: nothing later changes what finished
// blocks have. Elsewhere an approximation: of tokens that were seen beside others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "diffulex_edge/graph.h"
#include "diffulex_edge/runtime.h"

namespace diffulex_edge {

struct KeyValueCacheOptions {
  std::int64_t capacity = 0;  // tokens of a sequence
  std::size_t sequences = 1;
  CacheDtype dtype = CacheDtype::FP32;
};

class KeyValueCache {
 public:
  // For every attention of `graph`. Error{kOutOfMemory}.
  KeyValueCache(const Graph& graph, const KeyValueCacheOptions& options);

  // What a cache takes, known before it is made.
  static std::int64_t bytes(const Graph& graph, const KeyValueCacheOptions& options);
  std::int64_t bytes() const { return bytes_; }

  const KeyValueCacheOptions& options() const { return options_; }
  // Tokens that a sequence has, from position 0 on.
  std::int64_t length(std::size_t sequence) const { return lengths_[sequence]; }
  void set_length(std::size_t sequence, std::int64_t tokens) { lengths_[sequence] = tokens; }

  // Writes [count, heads * dim] keys and values of tokens from position `start` on.
  void write(ValueId attention, std::size_t sequence, std::int64_t start, std::int64_t count, const float* keys,
             const float* values);

  enum class Part : std::uint8_t { kKeys, kValues };
  // Rows of one head, [count, dim] from position `begin` on: in place where they are float32, else in `scratch`.
  const float* rows(Part part, ValueId attention, std::size_t sequence, std::int64_t head, std::int64_t begin,
                    std::int64_t count, std::span<float> scratch) const;

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };
  using Memory = std::unique_ptr<std::byte[], Free>;

  // Keys or values at one attention: [sequences, heads, capacity, dim], head by head, and a scale for each row in INT8.
  struct Tensor {
    Memory elements;
    Memory scales;
  };
  struct Layer {
    std::int64_t heads = 0;
    std::int64_t dim = 0;
    Tensor keys;
    Tensor values;
  };

  void write_row(Tensor& tensor, std::int64_t row, std::int64_t dim, const float* source) const;

  KeyValueCacheOptions options_;
  std::int64_t bytes_ = 0;
  std::vector<std::int64_t> lengths_;
  std::vector<Layer> layers_;  // by ValueId; those of other operators are empty
};

}  // namespace diffulex_edge
