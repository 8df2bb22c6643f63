// What a session keeps from one batch to the next: buffers, and keys and values.
#include "runtime/execution_session.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "runtime/linear_layers.h"
#include "support/expect_error.h"
#include "support/static_model.h"

namespace diffulex_edge {
namespace {

std::vector<float> logits_of(ExecutionSession& session, const std::vector<std::int64_t>& rows) {
  std::vector<float> all;
  session.logits(rows, [&](std::size_t, std::size_t, std::span<const float> values) {
    all.insert(all.end(), values.begin(), values.end());
  });
  return all;
}

class SessionOf : public ::testing::TestWithParam<const char*>, protected testing::StaticModel {
 protected:
  SessionOf() : StaticModel(GetParam()), plan_(model_.graph), layers_(model_, nullptr) {}

  ExecutionSession session() const { return {plan_, model_, layers_, control_}; }
  std::size_t vocab() const { return static_cast<std::size_t>(model_.config.vocab_size); }

  ExecutionPlan plan_;
  LinearLayers layers_;
  RunControl control_ = {.threads = 2};
};

TEST_P(SessionOf, GivesAnyRowsOfTheHead) {
  ExecutionSession session = this->session();
  session.begin(make_batch(model_, testing::kCalibrationSequences));
  session.run_to_output();
  const auto all = forward(model_, testing::kCalibrationSequences, nullptr, control_);
  const auto length = static_cast<std::int64_t>(testing::kCalibrationSequences[0].size());
  const std::vector<float> found = logits_of(session, {length + 2, 1});
  for (std::size_t i = 0; i < vocab(); ++i) {
    EXPECT_NEAR(found[i], all[1][2 * vocab() + i], 1e-5);
    EXPECT_NEAR(found[vocab() + i], all[0][vocab() + i], 1e-5);
  }
}

TEST_P(SessionOf, RunsOneBatchAfterAnotherInTheSameBuffers) {
  ExecutionSession session = this->session();
  session.keep_buffers();
  const TokenSequences first = {{5, 1, 30, 7, 7, 2, 19, 36}};
  const TokenSequences second = {{3, 3, 8}, {1, 9}};
  std::vector<const float*> buffers[3];  // they grow in the first round only
  for (std::size_t round = 0; round < 3; ++round) {
    for (const TokenSequences& sequences : {first, second}) {
      session.begin(make_batch(model_, sequences));
      while (session.next() != nullptr) {
        session.step();
        buffers[round].push_back(session.value(session.last()).data.data());
      }
      std::vector<std::int64_t> rows(static_cast<std::size_t>(session.tokens()));
      std::iota(rows.begin(), rows.end(), std::int64_t{0});
      std::vector<float> expected;
      for (const auto& logits : forward(model_, sequences, nullptr, control_)) {
        expected.insert(expected.end(), logits.begin(), logits.end());
      }
      const std::vector<float> found = logits_of(session, rows);
      ASSERT_EQ(found.size(), expected.size());
      for (std::size_t i = 0; i < found.size(); ++i) {
        ASSERT_NEAR(found[i], expected[i], 1e-5);
      }
    }
  }
  EXPECT_EQ(buffers[1], buffers[2]);
  session.begin(make_batch(model_, first));  // left in the middle
  session.step();
  session.begin(make_batch(model_, first));
  session.run_to_output();
  EXPECT_EQ(logits_of(session, {0}).size(), vocab());
}

TEST_P(SessionOf, RefusesToGoOnWithoutKeys) {
  const std::vector<std::int64_t> starts = {4};
  ExecutionSession session = this->session();
  testing::expect_error(ErrorCode::kInvalidArgument, {"position 0", "keys"},
                        [&] { session.begin(make_batch(model_, {{1, 2}}, starts)); });
  session.keep_keys_and_values({.capacity = 5});
  testing::expect_error(ErrorCode::kInvalidArgument, {"sequence 0", "room", "5 tokens"},
                        [&] { session.begin(make_batch(model_, {{1, 2}}, starts)); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"sequence 1", "room", "1 sequences"},
                        [&] { session.begin(make_batch(model_, TokenSequences{{1}, {1}})); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"sequence 0", "position 4", "0 tokens"},
                        [&] { session.begin(make_batch(model_, TokenSequences{{1}}, starts)); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"13 tokens", "from position 4"},
                        [&] { make_batch(model_, {std::vector<std::int64_t>(13)}, starts); });
}

INSTANTIATE_TEST_SUITE_P(Families, SessionOf, ::testing::Values("llada", "dream", "sdar", "qwen3"),
                         [](const auto& family) { return std::string(family.param); });

class CachedSessionOf : public SessionOf {};

// Blocks one after another, the last one several times with other tokens, as a decoder does: the logits are those of
// the whole sequence.
TEST_P(CachedSessionOf, GoesOnExactly) {
  ASSERT_GT(block_, 0);
  ASSERT_LE(3 * block_, model_.seq_len);
  TokenSequences whole(2);
  for (std::int64_t i = 0; i < 3 * block_; ++i) {
    whole[0].push_back((i * 7 + 3) % model_.config.vocab_size);
    whole[1].push_back((i * 5 + 1) % model_.config.vocab_size);
  }
  const auto expected = forward(model_, whole, nullptr, control_);
  ExecutionSession session = this->session();
  session.keep_keys_and_values({.capacity = 3 * block_, .sequences = 2});
  const auto run = [&](std::int64_t begin, std::int64_t end, std::int64_t change) {
    TokenSequences pieces;
    for (const auto& sequence : whole) {
      auto& piece = pieces.emplace_back(sequence.begin() + begin, sequence.begin() + end);
      for (auto& id : piece) {
        id = (id + change) % model_.config.vocab_size;
      }
    }
    session.begin(make_batch(model_, pieces, std::vector<std::int64_t>{begin, begin}));
    session.run_to_output();
  };
  for (std::int64_t begin = 0; begin < 3 * block_; begin += block_) {
    run(begin, begin + block_, 1);
    run(begin, begin + block_, 0);
    std::vector<std::int64_t> rows(static_cast<std::size_t>(2 * block_));
    std::iota(rows.begin(), rows.end(), std::int64_t{0});
    const std::vector<float> found = logits_of(session, rows);
    for (std::size_t i = 0; i < found.size(); ++i) {
      const std::size_t half = found.size() / 2;
      const auto& of_sequence = expected[i / half];
      ASSERT_NEAR(found[i], of_sequence[static_cast<std::size_t>(begin) * vocab() + i % half], 2e-5) << begin;
    }
  }
  const auto layers = static_cast<std::int64_t>(model_.config.num_layers);
  EXPECT_EQ(session.cache()->bytes(),
            2 * layers * 2 * 3 * block_ * model_.config.num_kv_heads * model_.config.head_dim * 4);
  run(0, 3 * block_, 0);  // and from the beginning, all blocks at once
  EXPECT_NEAR(logits_of(session, {3 * block_ - 1})[5], expected[0][expected[0].size() - vocab() + 5], 2e-5);
}

INSTANTIATE_TEST_SUITE_P(Families, CachedSessionOf, ::testing::Values("sdar", "fast_dllm_v2", "qwen3"),
                         [](const auto& family) { return std::string(family.param); });

}  // namespace
}  // namespace diffulex_edge
