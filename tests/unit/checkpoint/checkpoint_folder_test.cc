// A model's folder: which files are taken, and what an index can't make us do.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "diffulex_edge/checkpoint.h"
#include "support/expect_error.h"
#include "support/safetensors_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

std::string one_tensor(const std::string& name) {
  return testing::safetensors_file({{.name = name, .dtype = DType::kU8, .shape = {2}, .bytes = "ab"}});
}

class CheckpointFolder : public ::testing::Test {
 protected:
  CheckpointFolder() { fs::create_directory(folder_ / "model"); }
  fs::path in_model(const std::string& name) const { return folder_ / "model" / name; }
  void write(const std::string& name, const std::string& bytes) const { testing::write_file(in_model(name), bytes); }
  void write_index(const nlohmann::json& map) const {
    write("model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
  }
  Checkpoint open() const { return Checkpoint(folder_ / "model"); }
  void expect_refused(std::initializer_list<std::string> parts) const {
    testing::expect_error(ErrorCode::kBadFile, parts, [&] { open(); });
  }
  testing::TemporaryFolder folder_;
};

TEST_F(CheckpointFolder, TakesASingleFileByItsOwnName) {
  write("any.name", one_tensor("a"));
  const Checkpoint checkpoint(in_model("any.name"));
  EXPECT_EQ(checkpoint.tensors().size(), 1U);
  EXPECT_EQ(checkpoint.path(), in_model("any.name"));
}

TEST_F(CheckpointFolder, SaysThatThePathIsMissing) {
  testing::expect_error(ErrorCode::kBadFile, {"nowhere", "no such file or folder"},
                        [&] { const Checkpoint checkpoint(folder_ / "nowhere"); });
}

TEST_F(CheckpointFolder, FollowsLinksAsTheHubsCacheMakesThem) {
  testing::write_file(folder_ / "blob", one_tensor("a"));
  fs::create_symlink("../blob", in_model("1.safetensors"));
  write_index({{"a", "1.safetensors"}});
  EXPECT_EQ(open().at("a").elements(), 2);
}

TEST_F(CheckpointFolder, MissesAShardWhoseLinkDangles) {
  fs::create_symlink("../gone", in_model("1.safetensors"));
  write_index({{"a", "1.safetensors"}});
  expect_refused({"1.safetensors", "is a link to a file that is not there: ../gone", "the download is incomplete"});
}

TEST_F(CheckpointFolder, RefusesShardsThatAreBroken) {
  write("1.safetensors", one_tensor("a").substr(0, 20));
  write_index({{"a", "1.safetensors"}});
  expect_refused({"1.safetensors", "truncated"});
  write("1.safetensors", "");
  expect_refused({"1.safetensors", "empty"});
}

TEST_F(CheckpointFolder, IsOrderedByName) {
  write("1.safetensors", one_tensor("b"));
  write("2.safetensors", one_tensor("a"));
  write_index({{"b", "1.safetensors"}, {"a", "2.safetensors"}});
  const Checkpoint checkpoint = open();
  EXPECT_EQ(checkpoint.tensors().begin()->first, "a");
  EXPECT_EQ(checkpoint.at("a").where(), in_model("2.safetensors").string() + ": tensor 'a'");
}

}  // namespace
}  // namespace diffulex_edge
