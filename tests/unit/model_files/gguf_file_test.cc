#include "model_files/gguf_file.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/gguf_bytes.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

using testing::gguf_array;
using testing::gguf_file;
using testing::gguf_key;
using testing::gguf_text;
using testing::raw;

class GgufFileTest : public ::testing::Test {
 protected:
  GgufFile open(const std::string& bytes) {
    testing::write_file(folder_ / "m.gguf", bytes);
    return GgufFile(folder_ / "m.gguf");
  }
  void expect_broken(const std::string& bytes, std::initializer_list<std::string> parts) {
    testing::expect_error(ErrorCode::kBadFile, parts, [&] { open(bytes); });
  }
  testing::TemporaryFolder folder_;
};

TEST_F(GgufFileTest, ReadsValuesOfEveryType) {
  const GgufFile file = open(gguf_file(
      {gguf_key("a", 0, raw<std::uint8_t>(200)), gguf_key("b", 3, raw<std::int16_t>(-2)), gguf_key("c", 6, raw(0.5F)),
       gguf_key("d", 7, raw<std::uint8_t>(1)), gguf_key("e", 8, gguf_text("text")),
       gguf_key("f", 9, gguf_array(8, 2, gguf_text("x") + gguf_text("yz"))),
       gguf_key("g", 9, gguf_array(5, 2, raw<std::int32_t>(-7) + raw<std::int32_t>(9))),
       gguf_key("h", 10, raw<std::uint64_t>(UINT64_MAX))},
      {{.name = "t", .sizes = {4, 3}, .type = 0, .offset = 0}}, std::string(48, '\0')));
  EXPECT_EQ(file.integer("a"), 200);
  EXPECT_EQ(file.integer("b"), -2);
  EXPECT_EQ(file.number("c"), 0.5);
  EXPECT_EQ(file.number("b"), -2.0);
  EXPECT_EQ(file.boolean("d"), true);
  EXPECT_EQ(file.text("e"), "text");
  EXPECT_EQ(file.texts("f"), (std::vector<std::string_view>{"x", "yz"}));
  EXPECT_EQ(file.integers("g"), (std::vector<std::int64_t>{-7, 9}));
  EXPECT_EQ(file.integer("absent"), std::nullopt);
  EXPECT_EQ(file.tensors().front().shape, (std::vector<std::int64_t>{3, 4}));
  EXPECT_EQ(file.data().size(), 48U);
  testing::expect_error(ErrorCode::kBadFile, {"'h'", "63 bits"}, [&] { static_cast<void>(file.integer("h")); });
  testing::expect_error(ErrorCode::kBadFile, {"'e'"}, [&] { static_cast<void>(file.integer("e")); });
  testing::expect_error(ErrorCode::kBadFile, {"'a'"}, [&] { static_cast<void>(file.texts("a")); });
}

TEST_F(GgufFileTest, BelievesNoCount) {
  const std::string head = "GGUF" + raw<std::uint32_t>(3);
  constexpr std::uint64_t kMany = std::uint64_t{1} << 60U;
  expect_broken(head + raw(kMany) + raw<std::uint64_t>(0), {"1152921504606846976 tensors"});
  expect_broken(head + raw<std::uint64_t>(0) + raw(kMany), {"1152921504606846976 keys"});
  expect_broken(head + raw<std::uint64_t>(0), {"m.gguf"});
  expect_broken(gguf_file({gguf_key("k", 9, gguf_array(4, kMany, ""))}, {}, ""), {"key 'k'", "elements"});
  expect_broken(gguf_file({gguf_key("k", 9, gguf_array(8, kMany, ""))}, {}, ""), {"key 'k'"});
  expect_broken(gguf_file({gguf_key("k", 8, raw(kMany))}, {}, ""), {"key 'k'"});
  expect_broken(gguf_file({gguf_key("k", 13, "")}, {}, std::string(64, 'x')), {"key 'k'", "type 13"});
  expect_broken(gguf_file({gguf_key("k", 9, gguf_array(9, 1, ""))}, {}, std::string(64, 'x')), {"array of arrays"});
}

TEST_F(GgufFileTest, RefusesNamesThatComeTwice) {
  const std::string key = gguf_key("k", 0, raw<std::uint8_t>(1));
  expect_broken(gguf_file({key, key}, {}, ""), {"key 'k'", "twice"});
  const testing::GgufEntry tensor{.name = "t", .sizes = {1}, .type = 0, .offset = 0};
  expect_broken(gguf_file({}, {tensor, tensor}, std::string(32, '\0')), {"tensor 't'", "twice"});
}

TEST_F(GgufFileTest, RefusesDimensionsAndAlignmentsThatTheFormatHasNot) {
  expect_broken(gguf_file({}, {{.name = "t", .sizes = {1, 1, 1, 1, 1}, .type = 0, .offset = 0}}, ""), {"5 dimensions"});
  expect_broken(gguf_file({}, {{.name = "t", .sizes = {UINT64_MAX}, .type = 0, .offset = 0}}, ""),
                {"tensor 't'", "18446744073709551615"});
  for (const std::uint32_t alignment : {0U, 12U, 1U << 30U}) {
    expect_broken(gguf_file({gguf_key("general.alignment", 4, raw(alignment))}, {}, ""), {"general.alignment"});
  }
}

TEST_F(GgufFileTest, IsKnownByItsFirstBytes) {
  testing::write_file(folder_ / "m.gguf", "GGUF");
  testing::write_file(folder_ / "other", "GGU");
  EXPECT_TRUE(is_gguf(folder_ / "m.gguf"));
  EXPECT_FALSE(is_gguf(folder_ / "other"));
  EXPECT_FALSE(is_gguf(folder_ / "absent"));
  EXPECT_FALSE(is_gguf(folder_.path()));
}

}  // namespace
}  // namespace diffulex_edge
