// Runs a model on the CPU, in float32 or with the arithmetic of its quantized form.
#pragma once

#include <cstdint>
#include <vector>

#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge {

using TokenSequences = std::vector<std::vector<std::int64_t>>;

// The logits of every sequence: [length, vocab], row-major. With a plan, each layer computes as XNNPACK would with the
// plan's formats: 8-bit activations quantized per token (dynamic mode, and INT4 groups in every mode) or with static
// scales, integer products, float32 scales; results agree with the .pte up to rounding. Without one: float32.
//
// Sequences may differ in length, up to model.seq_len. Memory: the logits, and some activations for all tokens of the
// batch; one tile of weights for each thread. Errors: kInvalidArgument for an empty or too long sequence or a token id
// outside the vocabulary, kBadFile for a broken weight, kCancelled.
std::vector<std::vector<float>> forward(const Model& model, const TokenSequences& sequences,
                                        const QuantizationPlan* plan = nullptr, const RunControl& control = {});

}  // namespace diffulex_edge
