#include <gtest/gtest.h>

#include "checkpoint/tensor_source.h"
#include "diffulex_edge/checkpoint.h"
#include "support/expect_error.h"
#include "support/safetensors_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

using testing::safetensors_bytes;

class Safetensors : public ::testing::Test {
 protected:
  SafetensorsFile open(const std::string& bytes) {
    testing::write_file(folder_ / "m.safetensors", bytes);
    return SafetensorsFile(folder_ / "m.safetensors");
  }
  void expect_refused(const std::string& header, const std::string& data, const std::string& part) {
    testing::expect_error(ErrorCode::kBadFile, {"m.safetensors", part}, [&] { open(safetensors_bytes(header, data)); });
  }
  testing::TemporaryFolder folder_;
};

TEST_F(Safetensors, ReadsTensorsInAnyOrderAndMetadata) {
  const auto file = open(safetensors_bytes(
      R"({"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]},"__metadata__":{"k":"v"},)"
      R"("a":{"shape":[2],"dtype":"I8","data_offsets":[0,2]},"empty":{"dtype":"F32","shape":[0,3],"data_offsets":[6,6]}}  )",
      std::string("ab\0\0\x80?", 6)));
  ASSERT_EQ(file.tensors().size(), 3U);
  EXPECT_EQ(file.tensors()[0].name, "a");
  EXPECT_EQ(file.tensors()[1].bytes.size(), 4U);
  EXPECT_EQ(file.metadata().at("k"), "v");
}

TEST_F(Safetensors, RefusesEveryTruncation) {
  const std::string whole = safetensors_bytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "12345678");
  EXPECT_NO_THROW(open(whole));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    testing::expect_error(ErrorCode::kBadFile, {"m.safetensors"}, [&] { open(whole.substr(0, size)); });
  }
}

TEST_F(Safetensors, RefusesALyingHeaderLength) {
  std::string file = safetensors_bytes("{}", "");
  for (const std::uint64_t lie :
       {std::uint64_t{3}, std::uint64_t{100'000'001}, std::uint64_t{1} << 63U, ~std::uint64_t{0}}) {
    std::memcpy(file.data(), &lie, sizeof(lie));
    testing::expect_error(ErrorCode::kBadFile, {"header claims"}, [&] { open(file); });
  }
}

TEST_F(Safetensors, RefusesWhatTheFormatForbids) {
  const std::string tensor = R"("a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]})";
  const struct {
    std::string header;
    std::string data;
    std::string part;
  } kCases[] = {
      {"[]", "", "begin with '{'"},
      {"{" + tensor + "," + tensor + "}", "12", "twice"},
      {"{" + tensor + "}", "123", "end at byte 2"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", "123", "hole"},
      {"{" + tensor + R"(,"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", "123", "overlaps"},
      {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,2]}})", "12", "need 3 bytes"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}})", "12", "data_offsets give [2, 0]"},
      {R"({"a":{"dtype":"Q4","shape":[2],"data_offsets":[0,2]}})", "12", "Q4"},
      {R"({"a":{"dtype":"U8","shape":[-2],"data_offsets":[0,2]}})", "12", "-2"},
      {R"({"a":{"dtype":"U8","shape":[2.0],"data_offsets":[0,2]}})", "12", "2.0"},
      {R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,2]}})", "12", "18446744073709551615"},
      {R"({"a":{"dtype":"F64","shape":[4611686018427387904,4],"data_offsets":[0,2]}})", "12", "more than 2^63"},
      {R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", "1",
       "16 dimensions"},
      {R"({"a":{"dtype":"U8","shape":[2]}})", "12", "lacks one of"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2,3]}})", "12", "number 3"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0]}})", "12", "two data_offsets"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"x":1}})", "12", "unknown key 'x'"},
      {R"({"a":{"dtype":"U8","dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "12", "'dtype' twice"},
      {R"({"a":[[[[[[)", "", "an array"},
      {R"({"a":{"shape":[[1]]}})", "", "an array"},
      {R"({"__metadata__":{"k":1}})", "", "number 1"},
      {R"({"__metadata__":{"k":"1","k":"2"}})", "", "twice"},
      {R"({"a":null})", "", "null"},
      {"{} x", "", "not valid JSON"},
      {"{\"\xff\":1}", "", "not valid JSON"},
  };
  for (const auto& bad : kCases) {
    SCOPED_TRACE(bad.header);
    expect_refused(bad.header, bad.data, bad.part);
  }
}

}  // namespace
}  // namespace diffulex_edge
