#include "runtime/decoding_session.h"

#include <utility>

#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "runtime/batch.h"
#include "runtime/packed_model.h"

namespace diffulex_edge {
namespace {

// Rows of the head at once: enough for the kernels, and no great part of memory with the largest vocabularies.
constexpr std::size_t kLogitRows = 32;

struct Row {
  std::size_t window = 0;
  std::size_t index = 0;
};

}  // namespace

DecodingSession::DecodingSession(const PackedModel& model, const KeyValueCacheOptions& cache, RunControl control)
    : model_(model.state_->model),
      layers_(model.state_->layers),
      control_(std::move(control)),
      pass_weight_bytes_(layers_.bytes_without_tables(model_.graph)),
      session_(model.state_->graph_plan, model_, layers_, control_,
               model.state_->integers ? &*model.state_->integers : nullptr) {
  if (model.state_->graph_plan.head() < 0) {
    throw Error(ErrorCode::kUnsupported, "graph", "its output is not a linear layer");
  }
  session_.keep_buffers();
  session_.keep_keys_and_values(cache);
}

std::int64_t DecodingSession::max_tokens(const PackedModel& model) { return model.state_->model.seq_len; }

void DecodingSession::run(const std::vector<Window>& windows, const RowSink& sink) {
  TokenSequences sequences;
  std::vector<std::int64_t> starts;
  std::vector<std::size_t> cached_as;
  std::vector<std::int64_t> ends;
  bool is_reordered = false;
  std::vector<bool> causal;
  for (const Window& window : windows) {
    is_reordered = is_reordered || !window.positions.empty();
    sequences.push_back(window.tokens);
    starts.push_back(window.start);
    cached_as.push_back(window.sequence);
    ends.push_back(window.end);
    causal.push_back(window.is_causal);
  }
  Batch batch = make_batch(model_, sequences, starts);
  batch.cached_as = std::move(cached_as);
  batch.ends = std::move(ends);
  batch.causal = std::move(causal);
  if (is_reordered) {
    for (const Window& window : windows) {
      for (std::size_t i = 0; i < window.tokens.size(); ++i) {
        batch.positions.push_back(window.positions.empty() ? window.start + static_cast<std::int64_t>(i)
                                                           : window.positions[i]);
      }
    }
  }
  session_.begin(std::move(batch));
  session_.run_to_output();
  std::vector<std::int64_t> tokens;
  std::vector<Row> rows;
  for (std::size_t i = 0; i < windows.size(); ++i) {
    for (std::size_t row = 0; row < windows[i].rows.size(); ++row) {
      tokens.push_back(session_.offsets()[i] + windows[i].rows[row]);
      rows.push_back({.window = i, .index = row});
    }
  }
  const auto vocab = static_cast<std::size_t>(model_.config.vocab_size);
  session_.logits(
      tokens,
      [&](std::size_t first, std::size_t count, std::span<float> values) {
        parallel_for(count, control_, [&](std::size_t i, std::size_t) {
          sink(rows[first + i].window, rows[first + i].index, values.subspan(i * vocab, vocab));
        });
      },
      kLogitRows);
  layers_.check();
}

}  // namespace diffulex_edge
