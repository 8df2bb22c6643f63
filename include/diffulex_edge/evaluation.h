// What a model's quantization costs: losses, and how far its predictions move from a reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "diffulex_edge/activations.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"
#include "diffulex_edge/runtime.h"

namespace diffulex_edge {

// A target that is not counted.
inline constexpr std::int64_t kIgnoredTarget = -100;

// Sequences of one condition, such as a mask ratio. The logits at a position are compared with the target there.
struct EvaluationSet {
  std::string label;  // "15": percent of masked tokens; "bound"; "next"
  TokenSequences inputs;
  TokenSequences targets;  // as long as the inputs
  // false: the loss is the mean over all counted tokens. true: the mean over sequences of each one's mean, the estimate
  // of LLaDA's bound on the negative log-likelihood for each token (Nie et al. 2025, equation 6).
  bool mean_of_sequences = false;
};

// Pairs input_ids_R and target_ids_R, int64 [sequences, length], of a safetensors file; one set for each label R, in
// the order of the labels (numbers by value). Throws Error{kBadFile} naming the tensor.
std::vector<EvaluationSet> read_evaluation_sets(const std::filesystem::path& file, std::int64_t vocab_size);

// Sets from text: for masked-diffusion models the ratios 15, 50 and 90% and "bound"; for models of block length 1
// "next", the next token's loss; for other block-causal ones a clean prefix and one masked block, for each ratio.
// Deterministic under `seed`. Throws Error{kUnsupported} where the model's mask token is not known.
struct EvaluationTextOptions {
  std::int64_t length = 256;        // tokens of a sequence, at most
  std::int64_t max_sequences = 64;  // the first so many; 0: all
  std::uint64_t seed = 0;
};
std::vector<EvaluationSet> make_evaluation_sets(const Model& model, const TokenSequences& text, std::uint64_t seed);
// The same from a file (.txt, .jsonl, .npy), with the tokenizer of the model's folder. Throws Error{kBadFile}.
std::vector<EvaluationSet> make_evaluation_sets(const Model& model, const std::filesystem::path& file,
                                                const EvaluationTextOptions& options);

// With a 95% confidence interval; its unit of chance is the sequence.
struct Estimate {
  double mean = 0.0;
  double low = 0.0;
  double high = 0.0;
};

struct ReferenceComparison {
  Estimate reference_loss;
  Estimate loss_increase;  // loss - reference_loss, token by token
  Estimate kl_divergence;  // nats: KL(reference || model)
  double agreement = 0.0;  // share of tokens with the same most probable token
  // Of the quarter of a sequence's counted positions that the reference is surest of, which a decoder would commit
  // first: the share that the model commits otherwise (another position or another token).
  double commit_flip_rate = 0.0;
};

struct SetResult {
  std::string label;
  std::int64_t tokens = 0;  // counted
  Estimate loss;            // nats
  double accuracy = 0.0;    // share of tokens where the target is the most probable one
  std::optional<ReferenceComparison> comparison;
};

// Of a linear layer's output, all errors of earlier layers included.
struct LayerNoise {
  std::string layer;
  double signal_to_noise_db = 0.0;  // 10 log10(sum reference^2 / sum (model - reference)^2); infinite where equal
};

struct EvaluationResult {
  std::vector<SetResult> sets;
  std::vector<LayerNoise> layers;  // with a reference; in order of execution, "lm_head" last
  double seconds = 0.0;
  std::int64_t peak_rss_bytes = 0;
};

// A model as it is compared: with its plan's arithmetic, or in float32.
struct EvaluatedModel {
  const Model* model = nullptr;
  const QuantizationPlan* plan = nullptr;
  // FAST reads and packs all weights once, into memory.
  QuantizedArithmetic arithmetic = QuantizedArithmetic::SIMULATED;
};

// Gets the logits [vocab] of each counted position: set after set, and in each in the order of sequences and positions.
using LogitsSink = std::function<void(std::size_t set, std::span<const float> logits)>;

// Runs the sets through the model and, if given, through the reference, which has the same layers and vocabulary
// (Error{kInvalidArgument} otherwise). `sink`, if given, gets the subject's logits. Memory: activations for a bounded
// number of tokens, whatever the size of the sets; with FAST arithmetic also the model's packed weights.
EvaluationResult evaluate(const EvaluatedModel& subject, const std::optional<EvaluatedModel>& reference,
                          const std::vector<EvaluationSet>& sets, const RunControl& control = {},
                          const LogitsSink& sink = {});
// The same for several models beside one run of the reference; a result for each. Memory grows with their number, the
// tokens of a batch shrink with it.
std::vector<EvaluationResult> evaluate_each(std::span<const EvaluatedModel> subjects,
                                            const std::optional<EvaluatedModel>& reference,
                                            const std::vector<EvaluationSet>& sets, const RunControl& control = {});

// What one uniform format costs, its weights rounded to nearest.
struct FormatResult {
  std::string name;  // "int4, groups of 32"
  QuantizationConfig config;
  std::int64_t planned_bytes = 0;  // of all weights and scales
  std::vector<SetResult> sets;     // compared with the float32 model
};

struct LeftOutFormat {
  std::string name;
  std::string reason;  // one line
};

struct FormatComparison {
  std::int64_t original_bytes = 0;    // of all weights in FP32
  std::vector<FormatResult> formats;  // from FP16 to INT4 with one scale per channel
  std::vector<LeftOutFormat> left_out;
};

// What all formats of a comparison have in common.
struct ComparisonBase {
  QuantizationConfig config;     // mode, excluded layers, the formats of embedding and head
  CalibrationFindings findings;  // mode STATIC
  TargetArithmetic target;
  bool float_activations = false;  // with_float_activations()
};

// Evaluates FP16, INT8, and INT4 in groups of 32, 64, 128, 256 and per channel, beside the float32 model. In mode
// STATIC, INT4 in groups takes mode DYNAMIC where the target has no static kernel for it. Formats that the model can't
// take, such as groups that do not divide a row, are left out. `model` is not a quantized checkpoint
// (Error{kInvalidArgument}).
FormatComparison compare_formats(const Model& model, const ComparisonBase& base, const std::vector<EvaluationSet>& sets,
                                 const RunControl& control = {});

}  // namespace diffulex_edge
