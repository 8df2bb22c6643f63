#include "runtime/key_value_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "diffulex_edge/model.h"

namespace diffulex_edge {
namespace {

constexpr std::int64_t kHeads = 2;  // of keys, in the bundled model
constexpr std::int64_t kDim = 64;
constexpr std::int64_t kTokens = 3;

class KeyValueCacheTest : public ::testing::Test {
 protected:
  KeyValueCacheTest() {
    std::mt19937 generator(1);
    std::normal_distribution<float> normal;
    for (std::vector<float>* rows : {&keys_, &values_}) {
      rows->resize(static_cast<std::size_t>(kTokens * kHeads * kDim));
      std::ranges::generate(*rows, [&] { return normal(generator); });
    }
    std::fill_n(values_.begin(), kDim, 0.0F);  // of the first token's first head
    const auto& nodes = model_.graph.nodes();
    attention_ = std::ranges::find(nodes, Op::kAttention, &Node::op) - nodes.begin();
  }

  // What the cache gives back for one head of the second sequence, from position 5 on.
  std::vector<float> kept(CacheDtype dtype, KeyValueCache::Part part, std::int64_t head) {
    KeyValueCache cache(model_.graph, {.capacity = 9, .sequences = 2, .dtype = dtype});
    const auto id = static_cast<ValueId>(attention_);
    cache.write(id, 1, 5, kTokens, keys_.data(), values_.data());
    std::vector<float> scratch(static_cast<std::size_t>(kTokens * kDim));
    const float* rows = cache.rows(part, id, 1, head, 5, kTokens, scratch);
    return {rows, rows + kTokens * kDim};
  }

  std::vector<float> written(KeyValueCache::Part part, std::int64_t head) const {
    const std::vector<float>& rows = part == KeyValueCache::Part::kKeys ? keys_ : values_;
    std::vector<float> result;
    for (std::int64_t token = 0; token < kTokens; ++token) {
      const auto first = rows.begin() + (token * kHeads + head) * kDim;
      result.insert(result.end(), first, first + kDim);
    }
    return result;
  }

  Model model_ = load_model(DIFFULEX_EDGE_EXAMPLES_DIR "/tiny-llada");
  std::ptrdiff_t attention_ = 0;
  std::vector<float> keys_;
  std::vector<float> values_;
};

TEST_F(KeyValueCacheTest, FloatsComeBackAsTheyWere) {
  for (const auto part : {KeyValueCache::Part::kKeys, KeyValueCache::Part::kValues}) {
    for (std::int64_t head = 0; head < kHeads; ++head) {
      EXPECT_EQ(kept(CacheDtype::FP32, part, head), written(part, head));
    }
  }
}

TEST_F(KeyValueCacheTest, IntegersAreRoundedWithAScaleForEachTokenAndHead) {
  for (const auto part : {KeyValueCache::Part::kKeys, KeyValueCache::Part::kValues}) {
    for (std::int64_t head = 0; head < kHeads; ++head) {
      std::vector<float> expected = written(part, head);
      for (auto row = expected.begin(); row != expected.end(); row += kDim) {
        float most = 0.0F;
        std::for_each(row, row + kDim, [&](float x) { most = std::max(most, std::fabs(x)); });
        const float scale = most / 127.0F;
        const float steps = most > 0.0F ? 1.0F / scale : 0.0F;
        std::transform(row, row + kDim, row, [&](float x) { return std::nearbyint(x * steps) * scale; });
      }
      EXPECT_EQ(kept(CacheDtype::INT8, part, head), expected);
    }
  }
}

}  // namespace
}  // namespace diffulex_edge
