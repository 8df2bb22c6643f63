// Folders and files that are not what they say.
#include <gtest/gtest.h>

#include "checkpoint/tensor_source.h"
#include "diffulex_edge/checkpoint.h"
#include "support/expect_error.h"
#include "support/safetensors_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

std::string small_file() {
  return testing::safetensors_file({{.name = "a", .dtype = DType::kF32, .shape = {2}, .bytes = "12345678"},
                                    {.name = "b", .dtype = DType::kU8, .shape = {3}, .bytes = "abc"},
                                    {.name = "empty", .dtype = DType::kF32, .shape = {0, 4}, .bytes = ""}});
}

class DamagedCheckpoint : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& bytes) { testing::write_file(folder_ / name, bytes); }
  void index(const std::string& text) { write("model.safetensors.index.json", text); }
  void expect_refused(std::initializer_list<std::string> parts) {
    testing::expect_error(ErrorCode::kBadFile, parts, [&] { Checkpoint checkpoint(folder_.path()); });
  }
  testing::TemporaryFolder folder_;
};

TEST_F(DamagedCheckpoint, IsRefusedWhereverItIsCutOff) {
  const std::string whole = small_file();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    SCOPED_TRACE(size);
    write("model.safetensors", whole.substr(0, size));
    expect_refused({"model.safetensors"});
  }
  write("model.safetensors", whole + "x");
  expect_refused({"the tensors end at byte 11"});
  write("model.safetensors", whole);
  EXPECT_EQ(Checkpoint(folder_.path()).tensors().size(), 3U);
}

// A changed byte may give another valid file, whose tensors then lie inside it.
TEST_F(DamagedCheckpoint, IsRefusedOrStaysInsideTheFileWithAnyByteChanged) {
  const std::string whole = small_file();
  std::size_t refused = 0;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const char value : {'\0', '9', '"', '}', '\xff'}) {
      std::string damaged = whole;
      damaged[at] = value;
      write("model.safetensors", damaged);
      try {
        const SafetensorsFile file(folder_ / "model.safetensors");
        std::size_t bytes = 0;
        for (const TensorView& tensor : file.tensors()) {
          bytes += tensor.bytes.size();
        }
        EXPECT_EQ(bytes, 11U);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kBadFile) << error.what();
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, whole.size());
}

TEST_F(DamagedCheckpoint, IsRefusedWithALieAboutTheHeadersLength) {
  const std::string whole = small_file();
  std::uint64_t length = 0;
  std::memcpy(&length, whole.data(), sizeof(length));
  for (const std::uint64_t lie : {std::uint64_t{0}, std::uint64_t{1}, length - 8, length + 8, whole.size() - 8,
                                  whole.size() - 7, std::uint64_t{100'000'000}}) {
    SCOPED_TRACE(lie);
    std::string damaged = whole;
    damaged.replace(0, sizeof(lie), reinterpret_cast<const char*>(&lie), sizeof(lie));
    write("model.safetensors", damaged);
    expect_refused({"model.safetensors"});
  }
}

TEST_F(DamagedCheckpoint, IsRefusedWithHolesAndOverlaps) {
  const auto two = [](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}";
  };
  const struct {
    std::string header;
    std::string part;
  } kCases[] = {
      {two("[0,4]", "[5,9]"), "'b': leaves a hole before byte 5"},
      {two("[5,9]", "[0,4]"), "'a': leaves a hole before byte 5"},
      {two("[1,5]", "[5,9]"), "'a': leaves a hole before byte 1"},
      {two("[0,4]", "[3,7]"), "'b': overlaps another tensor at byte 3"},
      {two("[0,4]", "[0,4]"), "'b': overlaps another tensor at byte 0"},
      {two("[0,4]", "[4,8]"), "the tensors end at byte 8"},
      {two("[0,4]", "[6,10]"), "'b': leaves a hole before byte 6"},
      {two("[0,5]", "[5,9]"), "'a': dtype and shape need 4 bytes"},
  };
  for (const auto& bad : kCases) {
    SCOPED_TRACE(bad.header);
    write("model.safetensors", testing::safetensors_bytes(bad.header, "123456789"));
    expect_refused({bad.part});
  }
  write("model.safetensors", testing::safetensors_bytes(two("[4,8]", "[0,4]"), "bbbbaaaa"));
  EXPECT_EQ(Checkpoint(folder_.path()).at("a").bytes[0], std::byte{'a'});
}

TEST_F(DamagedCheckpoint, IsRefusedWithAShardOutsideItsFolder) {
  write("1.safetensors", small_file());
  for (const std::string name : {"../1.safetensors", "/etc/passwd", "./1.safetensors", "a/../1.safetensors", "..", "",
                                 "1.safetensors/", "1.safetensors\\u0000"}) {
    SCOPED_TRACE(name);
    index(R"({"weight_map": {"a": ")" + name + "\"}}");
    expect_refused({"is not the name of a file in this folder"});
  }
  index(R"({"weight_map": {"a": "."}})");
  expect_refused({"not a regular file"});
}

TEST_F(DamagedCheckpoint, IsRefusedWithAnIndexOfAnotherForm) {
  write("1.safetensors", small_file());
  for (const std::string text : {"{}", "[]", "null", "3", R"({"weight_map": []})", R"({"weight_map": null})"}) {
    SCOPED_TRACE(text);
    index(text);
    expect_refused({"index.json", "has no object \"weight_map\""});
  }
  for (const std::string shard : {"null", "1", "true", "[]", "{}"}) {
    SCOPED_TRACE(shard);
    index(R"({"weight_map": {"a": )" + shard + "}}");
    expect_refused({"the shard of 'a' is not a string"});
  }
  index(R"({"weight_map": {"a": "1.safetensors", "a": "1.safetensors"}})");
  expect_refused({"'a' appears twice"});
  index(R"({"weight_map": )");
  expect_refused({"not valid JSON"});
}

TEST_F(DamagedCheckpoint, IsRefusedWhereATensorIsInAnotherShardThanTheIndexSays) {
  write("1.safetensors", testing::safetensors_file({{.name = "a", .dtype = DType::kU8, .shape = {1}, .bytes = "1"}}));
  write("2.safetensors", testing::safetensors_file({{.name = "b", .dtype = DType::kU8, .shape = {1}, .bytes = "2"}}));
  index(R"({"weight_map": {"a": "2.safetensors", "b": "1.safetensors"}})");
  expect_refused({"lacks tensor 'a'", "download it again"});
  index(R"({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})");
  EXPECT_EQ(Checkpoint(folder_.path()).total_bytes(), 2);
}

TEST_F(DamagedCheckpoint, GetsAdviceWhereItIsPickled) {
  for (const std::string name : {"pytorch_model.bin", "model.pt", "consolidated.00.pth"}) {
    const testing::TemporaryFolder folder;
    testing::write_file(folder / name, "x");
    testing::expect_error(ErrorCode::kBadFile, {name, "safe_serialization=True"},
                          [&] { Checkpoint checkpoint(folder.path()); });
  }
  testing::expect_error(ErrorCode::kBadFile, {"no such file or folder"}, [&] { Checkpoint(folder_ / "absent"); });
}

TEST_F(DamagedCheckpoint, IsNotReadThroughItsIndexWhereOneFileHoldsAll) {
  write("model.safetensors", small_file());
  index("not JSON");
  EXPECT_EQ(Checkpoint(folder_.path()).total_bytes(), 11);
  EXPECT_EQ(Checkpoint(folder_ / "model.safetensors").total_bytes(), 11);
}

}  // namespace
}  // namespace diffulex_edge
