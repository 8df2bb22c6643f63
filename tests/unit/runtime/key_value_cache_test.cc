#include "runtime/key_value_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/static_model.h"

namespace diffulex_edge {
namespace {

class KeyValueCacheTest : public ::testing::Test, protected testing::StaticModel {
 protected:
  KeyValueCacheTest() : StaticModel("sdar") {
    for (std::size_t i = 0; i < model_.graph.nodes().size(); ++i) {
      if (model_.graph.nodes()[i].op == Op::kAttention) {
        attention_ = static_cast<ValueId>(i);
      }
    }
    heads_ = model_.config.num_kv_heads;
    dim_ = model_.config.head_dim;
    for (std::int64_t i = 0; i < 3 * heads_ * dim_; ++i) {
      keys_.push_back(std::sin(static_cast<float>(i)) * 3.0F);
      values_.push_back(std::cos(static_cast<float>(i)) * 0.01F);
    }
  }

  // Tokens 2 to 4 of the second sequence, read back head by head: the greatest error by the row's greatest value.
  float error(CacheDtype dtype) const {
    KeyValueCache cache(model_.graph, {.capacity = 6, .sequences = 2, .dtype = dtype});
    cache.write(attention_, 1, 2, 3, keys_.data(), values_.data());
    std::vector<float> scratch(static_cast<std::size_t>(3 * dim_));
    float worst = 0.0F;
    for (const auto part : {KeyValueCache::Part::kKeys, KeyValueCache::Part::kValues}) {
      const std::vector<float>& written = part == KeyValueCache::Part::kKeys ? keys_ : values_;
      for (std::int64_t head = 0; head < heads_; ++head) {
        const float* rows = cache.rows(part, attention_, 1, head, 2, 3, scratch);
        for (std::int64_t i = 0; i < 3 * dim_; ++i) {
          const float* row = written.data() + (i / dim_ * heads_ + head) * dim_;
          const float largest =
              *std::max_element(row, row + dim_, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
          worst = std::max(worst, std::fabs(rows[i] - row[i % dim_]) / std::fabs(largest));
        }
      }
    }
    return worst;
  }

  ValueId attention_ = -1;
  std::int64_t heads_ = 0;
  std::int64_t dim_ = 0;
  std::vector<float> keys_;
  std::vector<float> values_;
};

TEST_F(KeyValueCacheTest, KeepsWhatItsTypeHolds) {
  EXPECT_EQ(error(CacheDtype::FP32), 0.0F);
  EXPECT_LT(error(CacheDtype::FP16), 0x1p-11F);
  EXPECT_GT(error(CacheDtype::FP16), 0.0F);
  EXPECT_LT(error(CacheDtype::INT8), 0.51F / 127.0F);
  EXPECT_GT(error(CacheDtype::INT8), 0.1F / 127.0F);
}

TEST_F(KeyValueCacheTest, SaysItsSizeBefore) {
  const std::int64_t rows = model_.config.num_layers * 2 * 2 * heads_ * 6;  // keys and values, two sequences
  const auto bytes = [&](CacheDtype dtype) {
    return KeyValueCache::bytes(model_.graph, {.capacity = 6, .sequences = 2, .dtype = dtype});
  };
  EXPECT_EQ(bytes(CacheDtype::FP32), rows * dim_ * 4);
  EXPECT_EQ(bytes(CacheDtype::FP16), rows * dim_ * 2);
  EXPECT_EQ(bytes(CacheDtype::INT8), rows * (dim_ + 4));
}

TEST_F(KeyValueCacheTest, HoldsARowOfZeros) {
  KeyValueCache cache(model_.graph, {.capacity = 1, .sequences = 1, .dtype = CacheDtype::INT8});
  const std::vector<float> zeros(static_cast<std::size_t>(heads_ * dim_));
  cache.write(attention_, 0, 0, 1, zeros.data(), zeros.data());
  std::vector<float> scratch(static_cast<std::size_t>(dim_), 1.0F);
  const float* row = cache.rows(KeyValueCache::Part::kKeys, attention_, 0, 0, 0, 1, scratch);
  EXPECT_EQ(row[0], 0.0F);
}

}  // namespace
}  // namespace diffulex_edge
