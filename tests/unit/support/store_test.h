// A test of a backend's store of weights: a checkpoint, the store, and the file that it streams.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/distinct_tensors.h"
#include "checkpoint/stored_weight.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"
#include "support/safetensors_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge::testing {

template <typename Store>
class StoreTest : public ::testing::Test {
 protected:
  template <typename... Settings>
  void open(const std::vector<TestTensor>& tensors, Settings&&... settings) {
    write_file(folder_ / "m.safetensors", safetensors_file(tensors));
    store_.reset();
    distinct_.reset();
    checkpoint_.emplace(folder_ / "m.safetensors");
    distinct_.emplace(*checkpoint_);
    store_.emplace(*checkpoint_, *distinct_, std::forward<Settings>(settings)...);
  }
  LayerPlan plan(const std::string& tensor, const WeightFormat& format) const {
    const StoredWeight stored = find_stored_weight(*checkpoint_, tensor);
    return {.layer = "the." + tensor,
            .tensor = tensor,
            .rows = stored.rows,
            .columns = stored.columns,
            .source = stored.format,
            .format = format};
  }
  // The file. No byte is written twice, and none but those between aligned data is left out.
  std::vector<std::byte> stream_bytes(const RunControl& control = {.threads = 2}) const {
    std::vector<std::byte> file(static_cast<std::size_t>(store_->file_bytes()));
    std::vector<bool> written(file.size());
    std::mutex mutex;
    store_->stream(
        [&](std::int64_t offset, std::span<const std::byte> bytes) {
          const std::scoped_lock lock(mutex);
          for (std::size_t i = 0; i < bytes.size(); ++i) {
            const std::size_t at = static_cast<std::size_t>(offset) + i;
            EXPECT_FALSE(written.at(at)) << "written twice: " << at;
            written[at] = true;
            file[at] = bytes[i];
          }
        },
        control);
    std::size_t gap = 0;
    for (const bool one : written) {
      gap = one ? 0 : gap + 1;
      EXPECT_LT(gap, 64U);
    }
    EXPECT_EQ(gap, 0U) << "at the end";
    return file;
  }

  TemporaryFolder folder_;
  std::optional<Checkpoint> checkpoint_;
  std::optional<DistinctTensors> distinct_;
  std::optional<Store> store_;
};

}  // namespace diffulex_edge::testing
