#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <numeric>

#include "core/parallel.h"
#include "core/process_memory.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/evaluation.h"
#include "runtime/estimate.h"
#include "runtime/executor.h"
#include "runtime/linear_layers.h"
#include "runtime/packed_layers.h"
#include "runtime/prediction.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kBatchElements = 1LL << 25;  // tokens of a batch x width of the widest activation

// One counted position.
struct TokenResult {
  std::size_t position = 0;
  double loss = 0.0;
  Prediction prediction;
  double reference_loss = 0.0;
  Prediction reference;
  double kl = 0.0;
  bool correct = false;
};

struct SequenceResult {
  std::vector<TokenResult> tokens;
};

// Positions that a decoder would commit first: the surest quarter.
std::vector<std::size_t> commits(const std::vector<TokenResult>& tokens, Prediction TokenResult::* prediction) {
  std::vector<std::size_t> order(tokens.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) {
    const double first = (tokens[a].*prediction).confidence;
    const double second = (tokens[b].*prediction).confidence;
    return first != second ? first > second : a < b;
  });
  order.resize((tokens.size() + 3) / 4);
  return order;
}

double count_flips(const std::vector<TokenResult>& tokens) {
  const auto of_model = commits(tokens, &TokenResult::prediction);
  double flips = 0.0;
  for (const std::size_t index : commits(tokens, &TokenResult::reference)) {
    const bool kept = std::ranges::find(of_model, index) != of_model.end() &&
                      tokens[index].prediction.best == tokens[index].reference.best;
    flips += kept ? 0.0 : 1.0;
  }
  return flips;
}

struct Noise {
  double signal = 0.0;
  double error = 0.0;
};

std::unique_ptr<const ModelLayers> make_layers(const EvaluatedModel& evaluated, const RunControl& control) {
  if (evaluated.arithmetic == QuantizedArithmetic::FAST) {
    return std::make_unique<PackedLayers>(*evaluated.model, evaluated.plan, evaluated.float_activations, control);
  }
  return std::make_unique<LinearLayers>(*evaluated.model, evaluated.plan, evaluated.float_activations);
}

class Evaluation {
 public:
  Evaluation(const EvaluatedModel& subject, const std::optional<EvaluatedModel>& reference,
             const std::vector<EvaluationSet>& sets, const RunControl& control)
      : subject_(subject), reference_(reference), sets_(sets), control_(control) {
    check();
    layers_ = make_layers(subject_, control);
    if (reference_) {
      reference_layers_ = make_layers(*reference_, control);
    }
  }

  EvaluationResult run() {
    const auto start = std::chrono::steady_clock::now();
    results_.resize(sets_.size());
    std::vector<Item> items;
    for (std::size_t set = 0; set < sets_.size(); ++set) {
      results_[set].resize(sets_[set].inputs.size());
      for (std::size_t i = 0; i < sets_[set].inputs.size(); ++i) {
        items.push_back({.set = set, .sequence = i});
      }
    }
    run_batches(items);
    EvaluationResult result;
    for (std::size_t set = 0; set < sets_.size(); ++set) {
      result.sets.push_back(summarize(sets_[set], results_[set]));
    }
    for (const Node& node : subject_.model->graph.nodes()) {
      if (const auto found = noise_.find(node.name); node.op == Op::kLinear && found != noise_.end()) {
        const Noise& noise = found->second;
        result.layers.push_back({.layer = node.name,
                                 .signal_to_noise_db = noise.error == 0.0
                                                           ? std::numeric_limits<double>::infinity()
                                                           : 10.0 * std::log10(noise.signal / noise.error)});
      }
    }
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    result.peak_rss_bytes = peak_rss_bytes();
    return result;
  }

 private:
  struct Item {
    std::size_t set = 0;
    std::size_t sequence = 0;
  };

  void check() const {
    if (!reference_) {
      return;
    }
    const ModelConfig& a = subject_.model->config;
    const ModelConfig& b = reference_->model->config;
    if (a.vocab_size != b.vocab_size || a.num_layers != b.num_layers ||
        subject_.model->graph.nodes().size() != reference_->model->graph.nodes().size()) {
      throw Error(ErrorCode::kInvalidArgument, reference_->model->path.string(),
                  "is not the same model as " + subject_.model->path.string() + ": layers, vocabulary or graph differ");
    }
  }

  void run_batches(const std::vector<Item>& items) {
    const ModelConfig& config = subject_.model->config;
    const std::int64_t widest =
        std::max({config.intermediate_size, config.num_heads * config.head_dim, config.hidden_size});
    const std::int64_t most = std::max<std::int64_t>(kBatchElements / widest, 1);
    const auto length = [&](const Item& item) {
      return static_cast<std::int64_t>(sets_[item.set].inputs[item.sequence].size());
    };
    const std::int64_t total = std::accumulate(items.begin(), items.end(), std::int64_t{0},
                                               [&](std::int64_t sum, const Item& item) { return sum + length(item); });
    // Progress counts the work of every layer for every token.
    const auto nodes = static_cast<std::int64_t>(subject_.model->graph.nodes().size());
    progress_ = {.stage = "evaluation", .done_bytes = 0, .total_bytes = total * nodes, .in_bytes = false};
    for (std::size_t begin = 0; begin < items.size();) {
      std::int64_t tokens = length(items[begin]);
      std::size_t end = begin + 1;
      while (end < items.size() && tokens + length(items[end]) <= most) {
        tokens += length(items[end++]);
      }
      run_batch(std::span(items).subspan(begin, end - begin));
      begin = end;
    }
  }

  void run_batch(std::span<const Item> items) {
    TokenSequences sequences;
    for (const Item& item : items) {
      sequences.push_back(sets_[item.set].inputs[item.sequence]);
    }
    Executor executor(*subject_.model, sequences, *layers_, control_);
    std::unique_ptr<Executor> reference;
    if (reference_) {
      reference = std::make_unique<Executor>(*reference_->model, sequences, *reference_layers_, control_);
    }
    while (const Node* node = executor.next()) {
      executor.step();
      if (reference) {
        reference->step();
        if (node->op == Op::kLinear) {
          compare(node->name, executor.value(executor.last()).data, reference->value(reference->last()).data);
        }
      }
      report(executor.tokens());
    }
    // The counted positions of all sequences, in order.
    std::vector<std::int64_t> rows;
    struct Target {
      SequenceResult* result = nullptr;
      std::size_t position = 0;
      std::int64_t token = 0;
    };
    std::vector<Target> targets;
    for (std::size_t i = 0; i < items.size(); ++i) {
      const auto& wanted = sets_[items[i].set].targets[items[i].sequence];
      for (std::size_t position = 0; position < wanted.size(); ++position) {
        if (wanted[position] != kIgnoredTarget) {
          rows.push_back(executor.offsets()[i] + static_cast<std::int64_t>(position));
          targets.push_back({&results_[items[i].set][items[i].sequence], position, wanted[position]});
        }
      }
    }
    std::vector<TokenResult> tokens(rows.size());
    const auto vocab = static_cast<std::size_t>(subject_.model->config.vocab_size);
    executor.logits(rows, [&](std::size_t first, std::size_t count, std::span<const float> logits) {
      const auto judge = [&](std::span<const float> reference_logits) {
        parallel_for(count, control_, [&](std::size_t i, std::size_t) {
          const auto row = [&](std::span<const float> all) { return all.subspan(i * vocab, vocab); };
          const Target& target = targets[first + i];
          TokenResult& token = tokens[first + i];
          const auto target_index = static_cast<std::size_t>(target.token);
          token.position = target.position;
          token.prediction = predict(row(logits));
          token.loss = token.prediction.log_sum_exp - static_cast<double>(row(logits)[target_index]);
          token.correct = token.prediction.best == target.token;
          if (!reference_logits.empty()) {
            token.reference = predict(row(reference_logits));
            token.reference_loss =
                token.reference.log_sum_exp - static_cast<double>(row(reference_logits)[target_index]);
            token.kl = kl_divergence(row(reference_logits), token.reference, row(logits), token.prediction);
          }
        });
      };
      if (reference) {
        reference->logits(std::span(rows).subspan(first, count),
                          [&](std::size_t, std::size_t, std::span<const float> reference_logits) {
                            compare("lm_head", logits, reference_logits);
                            judge(reference_logits);
                          });
      } else {
        judge({});
      }
    });
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      targets[i].result->tokens.push_back(tokens[i]);
    }
  }

  void compare(const std::string& layer, std::span<const float> values, std::span<const float> reference) {
    Noise& noise = noise_[layer];
    // Summed in pieces whose borders do not depend on the number of threads.
    constexpr std::size_t kPiece = std::size_t{1} << 16U;
    std::vector<Noise> parts((values.size() + kPiece - 1) / kPiece);
    parallel_for(parts.size(), control_, [&](std::size_t piece, std::size_t) {
      const std::size_t end = std::min(values.size(), (piece + 1) * kPiece);
      for (std::size_t i = piece * kPiece; i < end; ++i) {
        const double signal = reference[i];
        const double error = static_cast<double>(values[i]) - signal;
        parts[piece].signal += signal * signal;
        parts[piece].error += error * error;
      }
    });
    for (const Noise& part : parts) {
      noise.signal += part.signal;
      noise.error += part.error;
    }
  }

  void report(std::int64_t tokens) {
    progress_.done_bytes = std::min(progress_.done_bytes + tokens, progress_.total_bytes);
    const auto now = std::chrono::steady_clock::now();
    if (control_.on_progress && now - last_report_ > std::chrono::milliseconds(50)) {
      last_report_ = now;
      control_.on_progress(progress_);
    }
  }

  SetResult summarize(const EvaluationSet& set, const std::vector<SequenceResult>& sequences) const {
    SetResult result{.label = set.label};
    std::vector<SequenceSum> loss;
    std::vector<SequenceSum> reference_loss;
    std::vector<SequenceSum> increase;
    std::vector<SequenceSum> kl;
    double correct = 0.0;
    double agreed = 0.0;
    double flips = 0.0;
    double committed = 0.0;
    for (const SequenceResult& sequence : sequences) {
      if (sequence.tokens.empty()) {
        continue;
      }
      const auto count = static_cast<double>(sequence.tokens.size());
      SequenceSum sums[4] = {{0.0, count}, {0.0, count}, {0.0, count}, {0.0, count}};
      for (const TokenResult& token : sequence.tokens) {
        sums[0].sum += token.loss;
        sums[1].sum += token.reference_loss;
        sums[2].sum += token.loss - token.reference_loss;
        sums[3].sum += token.kl;
        correct += token.correct ? 1.0 : 0.0;
        agreed += token.prediction.best == token.reference.best ? 1.0 : 0.0;
      }
      loss.push_back(sums[0]);
      reference_loss.push_back(sums[1]);
      increase.push_back(sums[2]);
      kl.push_back(sums[3]);
      result.tokens += static_cast<std::int64_t>(sequence.tokens.size());
      if (reference_) {
        flips += count_flips(sequence.tokens);
        const std::size_t first = (sequence.tokens.size() + 3) / 4;
        committed += static_cast<double>(first);
      }
    }
    const auto estimate = set.mean_of_sequences ? mean_estimate : ratio_estimate;
    const auto tokens = static_cast<double>(result.tokens);
    result.loss = estimate(loss);
    result.accuracy = correct / tokens;
    if (reference_) {
      result.comparison = ReferenceComparison{.reference_loss = estimate(reference_loss),
                                              .loss_increase = estimate(increase),
                                              .kl_divergence = estimate(kl),
                                              .agreement = agreed / tokens,
                                              .commit_flip_rate = flips / committed};
    }
    return result;
  }

  EvaluatedModel subject_;
  std::optional<EvaluatedModel> reference_;
  std::unique_ptr<const ModelLayers> layers_;
  std::unique_ptr<const ModelLayers> reference_layers_;
  const std::vector<EvaluationSet>& sets_;
  const RunControl& control_;
  std::vector<std::vector<SequenceResult>> results_;
  std::map<std::string, Noise> noise_;
  Progress progress_;
  std::chrono::steady_clock::time_point last_report_;
};

}  // namespace

EvaluationResult evaluate(const EvaluatedModel& subject, const std::optional<EvaluatedModel>& reference,
                          const std::vector<EvaluationSet>& sets, const RunControl& control) {
  return Evaluation(subject, reference, sets, control).run();
}

}  // namespace diffulex_edge
