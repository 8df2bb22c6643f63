#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <numeric>

#include "core/parallel.h"
#include "core/process_memory.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/evaluation.h"
#include "runtime/estimate.h"
#include "runtime/execution_session.h"
#include "runtime/linear_layers.h"
#include "runtime/packed_layers.h"
#include "runtime/prediction.h"
#include "runtime/value_check.h"

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
  std::size_t values = 0;  // that were compared
};

// Of the last step's routed value, the rows of tokens that chose the expert in both.
std::vector<float> common_rows(const ExecutionSession& mine, const ExecutionSession& theirs) {
  const std::vector<std::int64_t> tokens = mine.routed_tokens(mine.last());
  const std::vector<std::int64_t> others = theirs.routed_tokens(theirs.last());
  const Activations& made = mine.value(mine.last());
  std::vector<float> rows;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (std::ranges::binary_search(others, tokens[i])) {
      const std::span<const float> row = made.row(static_cast<std::int64_t>(i));
      rows.insert(rows.end(), row.begin(), row.end());
    }
  }
  return rows;
}

std::unique_ptr<const ModelLayers> make_layers(const EvaluatedModel& evaluated, const RunControl& control) {
  if (evaluated.arithmetic == QuantizedArithmetic::FAST) {
    return std::make_unique<PackedLayers>(*evaluated.model, evaluated.plan, control);
  }
  return std::make_unique<LinearLayers>(*evaluated.model, evaluated.plan);
}

// A model, and what executes it.
struct Runner {
  Runner(const EvaluatedModel& evaluated, const RunControl& control)
      : model(*evaluated.model),
        layers(make_layers(evaluated, control)),
        integers(make_static_values(model, evaluated.plan)),
        plan(model.graph) {
    session = std::make_unique<ExecutionSession>(plan, model, *layers, control, integers ? &*integers : nullptr);
  }

  const Model& model;
  std::unique_ptr<const ModelLayers> layers;
  std::optional<StaticValues> integers;
  ExecutionPlan plan;
  std::unique_ptr<ExecutionSession> session;
};

// What was found of one subject.
struct Findings {
  std::vector<std::vector<SequenceResult>> sequences;  // of each set
  std::map<std::string, Noise> noise;
};

// All subjects go through each batch together, node by node, beside one run of the reference.
class Evaluation {
 public:
  Evaluation(std::span<const EvaluatedModel> subjects, const std::optional<EvaluatedModel>& reference,
             const std::vector<EvaluationSet>& sets, const RunControl& control, const LogitsSink& sink)
      : subjects_(subjects),
        reference_(reference),
        sets_(sets),
        control_(control),
        sink_(sink),
        findings_(subjects.size()) {
    check();
    for (const EvaluatedModel& subject : subjects) {
      runners_.emplace_back(subject, control);
    }
    if (reference_) {
      reference_runner_ = std::make_unique<Runner>(*reference_, control);
    }
  }

  std::vector<EvaluationResult> run() {
    const auto start = std::chrono::steady_clock::now();
    std::vector<Item> items;
    for (std::size_t set = 0; set < sets_.size(); ++set) {
      for (Findings& findings : findings_) {
        findings.sequences.emplace_back(sets_[set].inputs.size());
      }
      for (std::size_t i = 0; i < sets_[set].inputs.size(); ++i) {
        items.push_back({.set = set, .sequence = i});
      }
    }
    run_batches(items);
    std::vector<EvaluationResult> results;
    results.reserve(subjects_.size());
    for (std::size_t i = 0; i < subjects_.size(); ++i) {
      results.push_back(summarize(*subjects_[i].model, findings_[i]));
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    for (EvaluationResult& result : results) {
      result.seconds = seconds;
      result.peak_rss_bytes = peak_rss_bytes();
    }
    return results;
  }

 private:
  struct Item {
    std::size_t set = 0;
    std::size_t sequence = 0;
  };

  // A counted position of a batch.
  struct Target {
    std::size_t set = 0;
    std::size_t sequence = 0;
    std::size_t position = 0;
    std::int64_t token = 0;
  };

  void check() const {
    const Model& first = *subjects_.front().model;
    const auto compare_with = [&](const Model& other) {
      const ModelConfig& a = first.config;
      const ModelConfig& b = other.config;
      if (a.vocab_size != b.vocab_size || a.num_layers != b.num_layers ||
          first.graph.nodes().size() != other.graph.nodes().size()) {
        throw Error(ErrorCode::kInvalidArgument, other.path.string(),
                    "is not the same model as " + first.path.string() + ": layers, vocabulary or graph differ");
      }
    };
    for (const EvaluatedModel& subject : subjects_) {
      compare_with(*subject.model);
    }
    if (reference_) {
      compare_with(*reference_->model);
    }
  }

  void run_batches(const std::vector<Item>& items) {
    const Model& model = *subjects_.front().model;
    const std::int64_t widest = widest_activation(model.config);
    const auto subjects = static_cast<std::int64_t>(subjects_.size());
    const std::int64_t most = std::max<std::int64_t>(2 * kBatchElements / (widest * (subjects + 1)), 1);
    const auto length = [&](const Item& item) {
      return static_cast<std::int64_t>(sets_[item.set].inputs[item.sequence].size());
    };
    const std::int64_t total = std::accumulate(items.begin(), items.end(), std::int64_t{0},
                                               [&](std::int64_t sum, const Item& item) { return sum + length(item); });
    // Progress counts the work of every layer for every token.
    const auto nodes = static_cast<std::int64_t>(model.graph.nodes().size());
    progress_ = {.stage = "evaluation", .done_bytes = 0, .total_bytes = total * nodes * subjects, .in_bytes = false};
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
    for (Runner& runner : runners_) {
      runner.session->begin(make_batch(runner.model, sequences));
    }
    if (reference_runner_) {
      reference_runner_->session->begin(make_batch(reference_runner_->model, sequences));
    }
    while (const Node* node = runners_.front().session->next()) {
      // The comparison's sums are finite only where all values are: no pass of their own for them.
      const bool compared = reference_runner_ != nullptr && node->op == Op::kLinear;
      if (reference_runner_) {
        reference_runner_->session->step();
        if (!compared) {
          check_step(reference_runner_->model, *node, *reference_runner_->session, control_);
        }
      }
      for (std::size_t i = 0; i < runners_.size(); ++i) {
        ExecutionSession& session = *runners_[i].session;
        session.step();
        if (compared) {
          compare_step(*node, i);
        } else {
          check_step(runners_[i].model, *node, session, control_);
        }
        report(session.tokens());
      }
    }
    judge_logits(items);
  }

  // What a linear layer made, with what it made in the reference.
  void compare_step(const Node& node, std::size_t subject) {
    const ExecutionSession& session = *runners_[subject].session;
    const ExecutionSession& reference = *reference_runner_->session;
    Noise& noise = findings_[subject].noise[node.name];
    if (session.is_routed(session.last())) {
      compare(noise, common_rows(session, reference), common_rows(reference, session));
    } else {
      compare(noise, session.value(session.last()).data, reference.value(reference.last()).data);
    }
    if (!std::isfinite(noise.signal + noise.error)) {
      check_step(runners_[subject].model, node, session, control_);
      check_step(reference_runner_->model, node, reference, control_);
    }
  }

  void judge_logits(std::span<const Item> items) {
    std::vector<std::int64_t> rows;
    std::vector<Target> targets;
    for (std::size_t i = 0; i < items.size(); ++i) {
      const auto& wanted = sets_[items[i].set].targets[items[i].sequence];
      for (std::size_t position = 0; position < wanted.size(); ++position) {
        if (wanted[position] != kIgnoredTarget) {
          rows.push_back(runners_.front().session->offsets()[i] + static_cast<std::int64_t>(position));
          targets.push_back({items[i].set, items[i].sequence, position, wanted[position]});
        }
      }
    }
    const auto judge_all = [&](std::size_t first, std::size_t count, std::span<const float> reference_logits) {
      for (std::size_t i = 0; i < runners_.size(); ++i) {
        runners_[i].session->logits(std::span(rows).subspan(first, count), [&](std::size_t begin, std::size_t part,
                                                                               std::span<const float> logits) {
          const auto other =
              reference_logits.empty() ? reference_logits : reference_logits.subspan(begin * vocab(), logits.size());
          const auto judged = std::span(targets).subspan(first + begin, part);
          judge(i, judged, logits, other);
          if (i == 0 && sink_) {
            for (std::size_t row = 0; row < part; ++row) {
              sink_(judged[row].set, logits.subspan(row * vocab(), vocab()));
            }
          }
        });
      }
    };
    if (reference_runner_) {
      reference_runner_->session->logits(rows, judge_all);
    } else {
      judge_all(0, rows.size(), {});
    }
  }

  std::size_t vocab() const { return static_cast<std::size_t>(subjects_.front().model->config.vocab_size); }

  // One row of logits for each target; the reference's too, or none.
  void judge(std::size_t subject, std::span<const Target> targets, std::span<const float> logits,
             std::span<const float> reference_logits) {
    Findings& findings = findings_[subject];
    if (!reference_logits.empty()) {
      compare(findings.noise["lm_head"], logits, reference_logits);
    }
    std::vector<TokenResult> tokens(targets.size());
    parallel_for(targets.size(), control_, [&](std::size_t i, std::size_t) {
      const auto row = [&](std::span<const float> all) { return all.subspan(i * vocab(), vocab()); };
      TokenResult& token = tokens[i];
      const auto target = static_cast<std::size_t>(targets[i].token);
      token.position = targets[i].position;
      check_logits(runners_[subject].model, row(logits));
      token.prediction = predict(row(logits));
      token.loss = token.prediction.log_sum_exp - static_cast<double>(row(logits)[target]);
      token.correct = token.prediction.best == targets[i].token;
      if (!reference_logits.empty()) {
        check_logits(reference_runner_->model, row(reference_logits));
        token.reference = predict(row(reference_logits));
        token.reference_loss = token.reference.log_sum_exp - static_cast<double>(row(reference_logits)[target]);
        token.kl = kl_divergence(row(reference_logits), token.reference, row(logits), token.prediction);
      }
    });
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      findings.sequences[targets[i].set][targets[i].sequence].tokens.push_back(tokens[i]);
    }
  }

  void compare(Noise& noise, std::span<const float> values, std::span<const float> reference) const {
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
    noise.values += values.size();
  }

  void report(std::int64_t tokens) {
    progress_.done_bytes = std::min(progress_.done_bytes + tokens, progress_.total_bytes);
    const auto now = std::chrono::steady_clock::now();
    if (control_.on_progress && now - last_report_ > std::chrono::milliseconds(50)) {
      last_report_ = now;
      control_.on_progress(progress_);
    }
  }

  EvaluationResult summarize(const Model& model, const Findings& findings) const {
    EvaluationResult result;
    for (std::size_t set = 0; set < sets_.size(); ++set) {
      result.sets.push_back(summarize(sets_[set], findings.sequences[set]));
    }
    for (const Node& node : model.graph.nodes()) {
      const auto found = findings.noise.find(node.name);
      // Nothing is known of an expert that no token chose.
      if (node.op == Op::kLinear && found != findings.noise.end() && found->second.values > 0) {
        const Noise& noise = found->second;
        const bool is_equal = noise.error == 0.0;
        result.layers.push_back({.layer = node.name,
                                 .signal_to_noise_db = is_equal ? std::numeric_limits<double>::infinity()
                                                                : 10.0 * std::log10(noise.signal / noise.error)});
      }
    }
    return result;
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

  std::span<const EvaluatedModel> subjects_;
  std::optional<EvaluatedModel> reference_;
  std::deque<Runner> runners_;  // of each subject
  std::unique_ptr<Runner> reference_runner_;
  const std::vector<EvaluationSet>& sets_;
  const RunControl& control_;
  const LogitsSink& sink_;
  std::vector<Findings> findings_;
  Progress progress_;
  std::chrono::steady_clock::time_point last_report_;
};

}  // namespace

EvaluationResult evaluate(const EvaluatedModel& subject, const std::optional<EvaluatedModel>& reference,
                          const std::vector<EvaluationSet>& sets, const RunControl& control, const LogitsSink& sink) {
  return Evaluation(std::span(&subject, 1), reference, sets, control, sink).run().front();
}

std::vector<EvaluationResult> evaluate_each(std::span<const EvaluatedModel> subjects,
                                            const std::optional<EvaluatedModel>& reference,
                                            const std::vector<EvaluationSet>& sets, const RunControl& control) {
  if (subjects.empty()) {
    return {};
  }
  const LogitsSink none;
  return Evaluation(subjects, reference, sets, control, none).run();
}

}  // namespace diffulex_edge
