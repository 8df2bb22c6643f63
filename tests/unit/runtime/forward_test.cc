#include "diffulex_edge/runtime.h"

#include <gtest/gtest.h>

#include <cmath>

#include "diffulex_edge/error.h"
#include "support/expect_error.h"
#include "support/reference_decoder.h"
#include "support/temporary_folder.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

using testing::ReferenceDecoder;

TokenSequences sequences_of(const std::vector<std::size_t>& lengths, std::int64_t vocab) {
  TokenSequences sequences;
  std::int64_t next = 3;
  for (const std::size_t length : lengths) {
    for (auto& id : sequences.emplace_back(length)) {
      id = next = (next * 7 + 5) % vocab;
    }
  }
  return sequences;
}

// Within 1e-4 of the largest logit.
void expect_near(const std::vector<float>& actual, const std::vector<double>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  double worst = 0.0;
  double largest = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    worst = std::max(worst, std::fabs(actual[i] - expected[i]));
    largest = std::max(largest, std::fabs(expected[i]));
  }
  EXPECT_GT(largest, 1.0);
  EXPECT_LT(worst, 1e-4 * largest);
}

class ForwardTest : public ::testing::Test {
 protected:
  Model load(const ReferenceDecoder& reference, const ModelOptions& options = {}) {
    const std::filesystem::path path = folder_.path() / std::to_string(models_++);
    testing::write_model(path, reference.config, reference.tensors());
    return load_model(path, options);
  }

  testing::TemporaryFolder folder_;
  int models_ = 0;
};

TEST_F(ForwardTest, AgreesWithTheReferenceForEveryFamilyAndLength) {
  for (const char* family : {"llada", "dream", "sdar", "fast_dllm_v2", "llama", "qwen2", "qwen3"}) {
    for (const bool tied : {false, true}) {
      SCOPED_TRACE(family + std::string(tied ? ", tied" : ""));
      const ReferenceDecoder reference = testing::reference_decoder(family, tied);
      const Model model = load(reference);
      const TokenSequences sequences = sequences_of({1, 13, 150, 2}, reference.vocab);
      const auto logits = forward(model, sequences);
      const auto weights = testing::arrays_of(reference.tensors());
      for (std::size_t i = 0; i < sequences.size(); ++i) {
        const std::vector<double> expected = reference.logits(sequences[i], weights);
        expect_near(logits[i], expected);
      }
    }
  }
}

TEST_F(ForwardTest, MasksBlocksThatDivideNothing) {
  for (const std::int64_t block : {0, 1, 3, 32, 200}) {
    ReferenceDecoder reference = testing::reference_decoder("sdar");
    reference.block = block;
    const Model model =
        load(reference, {.seq_len = {}, .block_length = block, .mask_token_id = {}, .ignored_config_keys = {}});
    const TokenSequences sequences = sequences_of({70}, reference.vocab);
    const auto logits = forward(model, sequences);
    const std::vector<double> expected = reference.logits(sequences[0], testing::arrays_of(reference.tensors()));
    expect_near(logits[0], expected);
  }
}

TEST_F(ForwardTest, IsTheSameForAnyNumberOfThreads) {
  const Model model = load(testing::reference_decoder("llada"));
  QuantizationConfig config;
  config.dtype = QuantizationDtype::INT4;
  const QuantizationResult quantized = quantize_model(model, config);
  const TokenSequences sequences = sequences_of({40, 9}, model.config.vocab_size);
  for (const QuantizationPlan* plan : {static_cast<const QuantizationPlan*>(nullptr), &quantized.plan}) {
    const auto one = forward(model, sequences, plan, {.threads = 1, .stop = {}, .on_progress = {}});
    EXPECT_EQ(one, forward(model, sequences, plan, {.threads = 2, .stop = {}, .on_progress = {}}));
    EXPECT_EQ(one, forward(model, sequences, plan, {.threads = 5, .stop = {}, .on_progress = {}}));
  }
}

TEST_F(ForwardTest, RefusesSequencesThatTheModelCannotTake) {
  const Model model = load(testing::reference_decoder("qwen3"),
                           {.seq_len = 8, .block_length = {}, .mask_token_id = {}, .ignored_config_keys = {}});
  const std::int64_t vocab = model.config.vocab_size;
  const auto refuse = [&](const TokenSequences& sequences, const std::string& what) {
    testing::expect_error(ErrorCode::kInvalidArgument, {what}, [&] { forward(model, sequences); });
  };
  refuse({}, "no sequence");
  refuse({{1}, {}}, "sequence 1");
  refuse({sequences_of({9}, vocab)}, "not in 1..8");
  refuse({{vocab}}, "vocabulary");
  refuse({{-1}}, "vocabulary");
}

TEST_F(ForwardTest, StopsWhenAsked) {
  const Model model = load(testing::reference_decoder("qwen3"));
  std::stop_source source;
  source.request_stop();
  testing::expect_error(ErrorCode::kCancelled, {"stopped"}, [&] {
    forward(model, {{1, 2}}, nullptr, {.threads = 1, .stop = source.get_token(), .on_progress = {}});
  });
}

}  // namespace
}  // namespace diffulex_edge
