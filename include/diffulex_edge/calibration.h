// What a model's layers see, from some text: for static activations and for rounding methods that need it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/activations.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"
#include "diffulex_edge/runtime.h"

namespace diffulex_edge {

// How a static range is chosen from all values that calibration saw. MIN_MAX covers them; PERCENTILE leaves out the
// outermost ones on both sides; MSE minimizes the mean squared error of 8-bit integers.
enum class Observer { MIN_MAX, PERCENTILE, MSE };
std::string_view to_string(Observer observer);  // "min_max", "percentile", "mse"
Observer parse_observer(std::string_view text);

// In place of a file: the model makes max_sequences of `length` tokens itself.
inline constexpr std::string_view kOwnTokens = "self";

struct CalibrationOptions {
  // .txt, .jsonl, .npy, or .safetensors with input_ids_R, or kOwnTokens. Needed where needs_calibration().
  std::filesystem::path data;
  std::int64_t length = 256;        // tokens of a sequence, at most
  std::int64_t max_sequences = 64;  // the first so many
  std::uint64_t seed = 0;           // of the mask ratios and places
  Observer observer = Observer::MSE;
  double percentile = 99.99;  // PERCENTILE: percent of the values that the range covers
  // How much more the error at positions that predict a masked token counts than at others, in rounding.
  double mask_weight = 1.0;
  // Tensors that AWQ leaves as they are although they are norms' weights: those that the caller can't change.
  std::set<std::string, std::less<>> fixed_tensors;
};

// A graph's input in one run. Integers, and booleans as 0 and 1, are given as floats, which are exact up to 2^24.
struct InputTensor {
  std::vector<std::int64_t> shape;
  std::vector<float> values;  // row-major
};

// What calibration runs a model on: sequences as it sees them while it decodes, or a module's inputs.
struct CalibrationData {
  TokenSequences inputs;
  std::vector<std::vector<bool>> masked;  // of the inputs: the mask token
  std::vector<std::vector<bool>> counts;  // positions whose logits predict a masked (or the next) token
  // In place of all these, for a module's graph: the inputs of each run, in the order of the graph's nodes. Lengths of
  // the sequence may differ between runs.
  std::vector<std::vector<InputTensor>> runs;
};

// Reads options.data and masks it: ratios are stratified over (0, 1), a block-causal model gets clean prefixes and one
// masked block. Sequences that hold mask tokens, and those of a .safetensors file, are states already and stay as they
// are. Errors: kBadFile for data that is broken, too short or foreign, kInvalidArgument for impossible options.
CalibrationData load_calibration_data(const Model& model, const CalibrationOptions& options,
                                      const RunControl& control = {});

// Of the values of an input's masked or unmasked tokens. The noise is that of 8-bit integers, as 10 log10 of the
// signal's squares over the error's: with the one static scale that the observer chose, and with a scale for each
// token. Infinite where nothing is lost, NaN where there is no signal.
struct ValueStatistics {
  ActivationRange range;
  double rms = 0.0;
  double static_scale_db = 0.0;
  double token_scales_db = 0.0;
};

// One linear layer's input.
struct LayerStatistics {
  std::string layer;
  std::int64_t tokens = 0;  // that it saw: of a routed expert, those that chose it
  ValueStatistics masked;   // at mask tokens; empty range where there are none
  ValueStatistics unmasked;
  double token_spread = 0.0;  // largest over mean of the tokens' largest magnitudes: what one scale for all costs
  LayerActivations chosen;    // by the observer; the output's only in mode static
};

// How one weight was rounded.
struct LayerRounding {
  std::string layer;
  RoundingMethod method = RoundingMethod::RTN;
  bool awq_scaled = false;
  // Mean over tokens of |(W - rounded) x|^2, each token's relative to its own |x|^2. Both 0 for an expert that
  // calibration hardly reached, whose weight was rounded from itself alone.
  double error = 0.0;
  double nearest_error = 0.0;  // the same for round-to-nearest
};

struct CalibrationResult {
  std::int64_t sequences = 0;
  std::int64_t tokens = 0;
  std::int64_t masked_tokens = 0;
  std::vector<LayerStatistics> statistics;  // of inputs as the layer sees them: behind rounded layers in rounding
  std::vector<LayerRounding> rounding;
  std::vector<std::string> warnings;
  double seconds = 0.0;
  CalibrationFindings findings;  // what plans are made with
};

}  // namespace diffulex_edge
