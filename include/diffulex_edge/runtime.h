// Runs a model on the CPU, in float32 or with the arithmetic of its quantized form.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge {

using TokenSequences = std::vector<std::vector<std::int64_t>>;

// The logits of every sequence: [length, vocab], row-major. With a plan, each layer computes in its planned arithmetic:
// activations in 8 bits with a scale for each token, or with static scales; integer products, float32 scales. For
// XNNPACK's arithmetic, results agree with the .pte up to rounding. Where every value is an integer on the plan's
// target, each is rounded to one. Without a plan: float32.
//
// Sequences may differ in length, up to model.seq_len. Memory: the logits, and some activations for all tokens of the
// batch; one tile of weights for each thread. Errors: kInvalidArgument for an empty or too long sequence or a token id
// outside the vocabulary, kBadFile for a broken weight, kCancelled.
std::vector<std::vector<float>> forward(const Model& model, const TokenSequences& sequences,
                                        const QuantizationPlan* plan = nullptr, const RunControl& control = {});

// How quantized layers compute on this machine. SIMULATED reads weights from the checkpoint at every run and multiplies
// their float32 values; FAST keeps them packed in memory and multiplies their integers. Results agree up to rounding.
enum class QuantizedArithmetic { SIMULATED, FAST };

std::string_view to_string(QuantizedArithmetic arithmetic);  // "simulated", "fast"
// Error{kInvalidArgument} for anything else.
QuantizedArithmetic parse_quantized_arithmetic(std::string_view text);

// The same plan with all activations in float32, whatever its target does: what the weights by themselves cost.
QuantizationPlan with_float_activations(QuantizationPlan plan);

// A model whose weights were read and packed once, to be run many times: what generation needs. Layers compute as
// forward() says, by integer dot products of the machine's instruction set; the integers' sums are the same bits on
// every machine and for any number of threads.
class PackedModel {
 public:
  // Reads all weights, in their planned formats; without a plan, quantized and FP16 weights stay as they are and others
  // become FP32. Keeps no reference to `model`, its checkpoint or `plan`. Errors: kBadFile for a broken weight,
  // kUnsupported for an INT8 layer of more than 65,793 inputs, kOutOfMemory, kCancelled.
  //
  // With `packs`, a folder, the packed weights are written to a file there, whose name stands for the checkpoint's
  // files (by name, size and time) and the formats; the next time they are mapped from it, which takes no time, and
  // memory that processes share. Further errors: kBadFile for a broken file, kIo for a folder that can't be written.
  explicit PackedModel(const Model& model, const QuantizationPlan* plan = nullptr, const RunControl& control = {},
                       const std::filesystem::path& packs = {});
  ~PackedModel();
  PackedModel(PackedModel&& other) noexcept;
  PackedModel& operator=(PackedModel&& other) noexcept;
  PackedModel(const PackedModel&) = delete;
  PackedModel& operator=(const PackedModel&) = delete;

  // The logits of every sequence, as forward() above; may be called from several threads at once. Memory beside the
  // weights: the logits, and some activations for all tokens of the batch. Errors: kInvalidArgument as forward(),
  // kCancelled.
  std::vector<std::vector<float>> forward(const TokenSequences& sequences, const RunControl& control = {}) const;

  // Bytes of all weights, norms and biases in memory: the planned ones, rows filled up to a multiple of 16 and columns
  // to a multiple of 8, and 4 bytes for each row of integers.
  std::int64_t weight_bytes() const;

 private:
  friend class DecodingSession;  // runs it with a cache

  struct State;
  std::unique_ptr<State> state_;
};

// How keys and values of earlier tokens are kept. INT8 has a scale for each token and head.
enum class CacheDtype { FP32, FP16, INT8 };

std::string_view to_string(CacheDtype dtype);  // "fp32", "fp16", "int8"
// Error{kInvalidArgument} for anything else.
CacheDtype parse_cache_dtype(std::string_view text);

}  // namespace diffulex_edge
