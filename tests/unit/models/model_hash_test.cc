#include "diffulex_edge/model_hash.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/sha256.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

const std::filesystem::path kTiny = DIFFULEX_EDGE_EXAMPLES_DIR "/tiny-llada";

TEST(ModelHash, IsThatOfTheLinesOfSha256sum) {
  const ModelHash hash = hash_model(load_model(kTiny));
  ASSERT_EQ(hash.files.size(), 2U);
  EXPECT_EQ(hash.files[0].name, "config.json");
  EXPECT_EQ(hash.files[1].name, "model.safetensors");
  EXPECT_EQ(hash.files[1].bytes, static_cast<std::int64_t>(std::filesystem::file_size(kTiny / "model.safetensors")));
  std::string lines;
  for (const FileHash& file : hash.files) {
    lines += file.sha256 + "  " + file.name + "\n";
  }
  EXPECT_EQ(hash.sha256, sha256_hex(std::as_bytes(std::span(lines))));
}

TEST(ModelHash, ChangesWithAByteOfTheWeights) {
  const testing::TemporaryFolder folder;
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::filesystem::copy_file(kTiny / name, folder.path() / name);
  }
  const ModelHash before = hash_model(load_model(folder.path()));
  EXPECT_EQ(before.sha256, hash_model(load_model(kTiny)).sha256);
  {
    std::fstream file(folder.path() / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put('\x11');
  }
  const ModelHash after = hash_model(load_model(folder.path()));
  EXPECT_NE(before.sha256, after.sha256);
  EXPECT_EQ(before.files[0].sha256, after.files[0].sha256);
  EXPECT_NE(before.files[1].sha256, after.files[1].sha256);
}

TEST(ModelHash, StopsWhenAsked) {
  std::stop_source stop;
  stop.request_stop();
  const Model model = load_model(kTiny);
  testing::expect_error(ErrorCode::kCancelled, {}, [&] { hash_model(model, {.stop = stop.get_token()}); });
}

TEST(Sha256, IsTheSameInPieces) {
  const std::string text = "a text in three pieces";
  const auto bytes = std::as_bytes(std::span(text));
  Sha256 hash;
  hash.add(bytes.first(5));
  hash.add(bytes.subspan(5, 0));
  hash.add(bytes.subspan(5));
  EXPECT_EQ(hash.finish(), sha256_hex(bytes));
}

}  // namespace
}  // namespace diffulex_edge
