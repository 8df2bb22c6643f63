// Runs pieces of sequences through a packed model, beside keys and values of what came before: what a decoder's passes
// are made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/runtime.h"
#include "runtime/execution_session.h"
#include "runtime/packed_layers.h"

namespace diffulex_edge {

// A piece of one sequence: `tokens` from position `start` on.
struct Window {
  std::size_t sequence = 0;  // of the cache
  std::int64_t start = 0;
  std::vector<std::int64_t> tokens;
  // Attention sees positions before this one; those outside of the window are in the cache. At least the window's end.
  std::int64_t end = 0;
  std::vector<std::int64_t> rows;  // places in `tokens` whose logits are wanted, ascending
  // Where the tokens stand in the text, if that is not `start`, `start` + 1, ...: rotary embeddings go by it. Which
  // token sees which, and where its keys are kept, goes by their order.
  std::vector<std::int64_t> positions;
};

class DecodingSession {
 public:
  // The logits of rows[row] of a window: may be called from several threads at once, each time with other logits, which
  // it may change. Nothing is called where no window wants rows.
  using RowSink = std::function<void(std::size_t window, std::size_t row, std::span<float> logits)>;

  // `model` must outlive this. Error{kOutOfMemory}; kUnsupported for a graph without a head.
  DecodingSession(const PackedModel& model, const KeyValueCacheOptions& cache, RunControl control);
  DecodingSession(const DecodingSession&) = delete;
  DecodingSession& operator=(const DecodingSession&) = delete;
  DecodingSession(DecodingSession&&) = delete;
  DecodingSession& operator=(DecodingSession&&) = delete;
  ~DecodingSession() = default;

  // One forward pass for all windows, of different sequences. Errors: those of make_batch() and
  // ExecutionSession::begin(), kCancelled.
  void run(const std::vector<Window>& windows, const RowSink& sink);

  const Model& model() const { return model_; }
  std::int64_t cache_bytes() const { return session_.cache()->bytes(); }
  // What a pass with logits reads of the weights: all but rows of the embedding, if that is not the head as well.
  std::int64_t pass_weight_bytes() const { return pass_weight_bytes_; }
  // The longest sequence.
  static std::int64_t max_tokens(const PackedModel& model);

 private:
  const Model& model_;
  const PackedLayers& layers_;
  RunControl control_;
  std::int64_t pass_weight_bytes_;
  ExecutionSession session_;
};

}  // namespace diffulex_edge
