// The header's grammar, without a file around it.
#include "checkpoint/safetensors_header.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace diffulex_edge {
namespace {

// A header with one tensor of the given fields.
std::string tensor(const std::string& fields) { return "{\"a\":{" + fields + "}}"; }

std::string repeated(const std::string& text, std::size_t count) {
  std::string result;
  for (std::size_t i = 0; i < count; ++i) {
    result += text;
  }
  return result;
}

void expect_refused(const std::string& text, const std::string& part) {
  SCOPED_TRACE(text.substr(0, 100));
  testing::expect_error(ErrorCode::kBadFile, {"f.safetensors", part},
                        [&] { parse_safetensors_header(text, "f.safetensors"); });
}

TEST(SafetensorsHeader, KeepsEntriesInTheirOrder) {
  const SafetensorsHeader header = parse_safetensors_header(
      R"({"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},"a":{"data_offsets":[0,8],"shape":[],"dtype":"F64"}})",
      "f");
  ASSERT_EQ(header.entries.size(), 2U);
  EXPECT_EQ(header.entries[0].name, "b");
  EXPECT_EQ(header.entries[0].dtype, DType::kBF16);
  EXPECT_EQ(header.entries[0].shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(header.entries[0].begin, 8);
  EXPECT_EQ(header.entries[0].end, 20);
  EXPECT_EQ(header.entries[1].name, "a");
  EXPECT_TRUE(header.entries[1].shape.empty());
  EXPECT_TRUE(header.metadata.empty());
}

TEST(SafetensorsHeader, AcceptsWhatTheFormatAllows) {
  EXPECT_TRUE(parse_safetensors_header("{}", "f").entries.empty());
  EXPECT_TRUE(parse_safetensors_header(R"({"__metadata__":{}}   )", "f").metadata.empty());
  EXPECT_EQ(parse_safetensors_header(R"({"__metadata__":{"":"","a":"\u0000"}})", "f").metadata.at("a"),
            std::string(1, '\0'));
  const auto named =
      parse_safetensors_header("{\"\u00e9\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", "f");
  EXPECT_EQ(named.entries.at(0).name, "\u00e9");
  const std::string most = "[" + repeated("1,", 15) + "1]";
  EXPECT_EQ(parse_safetensors_header(tensor(R"("dtype":"U8","data_offsets":[0,1],"shape":)" + most), "f")
                .entries.at(0)
                .shape.size(),
            16U);
  // A tensor may have the fields' names.
  EXPECT_EQ(
      parse_safetensors_header(R"({"shape":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "f").entries.at(0).name,
      "shape");
}

TEST(SafetensorsHeader, RefusesEveryPrefix) {
  const std::string whole = R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}})";
  EXPECT_NO_THROW(parse_safetensors_header(whole, "f.safetensors"));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    expect_refused(whole.substr(0, size), "not valid JSON");
  }
}

TEST(SafetensorsHeader, RefusesNumbersThatAreNoSizes) {
  for (const std::string bad : {"-1", "-9223372036854775808", "1.0", "1e3", "1e999", "9223372036854775808",
                                "18446744073709551616", "340282366920938463463374607431768211456"}) {
    expect_refused(tensor(R"("dtype":"U8","data_offsets":[0,1],"shape":[)" + bad + "]"), "");
    expect_refused(tensor(R"("dtype":"U8","shape":[1],"data_offsets":[0,)" + bad + "]"), "");
    expect_refused(tensor(R"("dtype":"U8","shape":[1],"data_offsets":[)" + bad + ",1]"), "");
  }
  for (const std::string bad : {"NaN", "Infinity", "01", "+1", "0x1", ".5", "1,"}) {
    expect_refused(tensor(R"("dtype":"U8","data_offsets":[0,1],"shape":[)" + bad + "]"), "not valid JSON");
  }
  // The largest that fits is a number; whether it fits the file is for others to say.
  EXPECT_EQ(parse_safetensors_header(
                tensor(R"("dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,9223372036854775807])"), "f")
                .entries.at(0)
                .end,
            INT64_MAX);
}

TEST(SafetensorsHeader, RefusesValuesOfOtherTypes) {
  for (const std::string value : {"null", "true", "1", "\"x\"", "[]"}) {
    expect_refused("{\"a\":" + value + "}", "where the format has none");
    expect_refused("{\"__metadata__\":" + value + "}", "where the format has none");
    expect_refused(tensor("\"shape\":[" + (value == "1" ? "{}" : value) + "]"), "where the format has none");
    expect_refused(tensor("\"data_offsets\":[" + (value == "1" ? "{}" : value) + "]"), "where the format has none");
  }
  for (const std::string value : {"null", "true", "1", "{}", "[]"}) {
    expect_refused(tensor("\"dtype\":" + value), "where the format has none");
    expect_refused("{\"__metadata__\":{\"k\":" + value + "}}", "where the format has none");
  }
  for (const std::string value : {"null", "true", "1", "{}", "\"x\""}) {
    expect_refused(tensor("\"shape\":" + value), "where the format has none");
    expect_refused(tensor("\"data_offsets\":" + value), "where the format has none");
  }
  for (const std::string value : {"null", "true", "1", "[]", "\"x\""}) {
    expect_refused(value, "where the format has none");
  }
}

TEST(SafetensorsHeader, RefusesEachMissingKey) {
  const std::string fields[] = {R"("dtype":"U8")", R"("shape":[1])", R"("data_offsets":[0,1])"};
  for (std::size_t missing = 0; missing < std::size(fields); ++missing) {
    const std::string& first = fields[missing == 0 ? 1 : 0];
    const std::string& second = fields[missing == 2 ? 1 : 2];
    expect_refused(tensor(first + "," + second), "'a': lacks one of");
  }
  expect_refused("{\"a\":{}}", "'a': lacks one of");
}

TEST(SafetensorsHeader, RefusesUnknownAndRepeatedKeys) {
  expect_refused(tensor(R"("dtype":"U8","Shape":[1])"), "unknown key 'Shape'");
  expect_refused(tensor(R"("":1)"), "unknown key ''");
  expect_refused(tensor(R"("shape":[1],"shape":[1])"), "'shape' twice");
  expect_refused(tensor(R"("data_offsets":[0,1],"data_offsets":[0,1])"), "'data_offsets' twice");
  const std::string body = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  expect_refused("{\"a\":" + body + ",\"\\u0061\":" + body + "}", "names 'a' twice");  // the same name, escaped
  expect_refused(R"({"__metadata__":{},"__metadata__":{}})", "names '__metadata__' twice");
}

TEST(SafetensorsHeader, RefusesUnknownDtypes) {
  for (const std::string name : {"", "f32", "F32 ", "F128", "I4", "U", "float32"}) {
    expect_refused(tensor("\"dtype\":\"" + name + "\""), "dtype '" + name + "'");
  }
}

TEST(SafetensorsHeader, RefusesDeepNestingAtOnce) {
  constexpr std::size_t kDepth = 2'000'000;
  expect_refused(std::string(kDepth, '['), "an array");
  expect_refused(repeated("{\"a\":", kDepth), "unknown key 'a'");
  expect_refused("{\"a\":{\"shape\":" + std::string(kDepth, '['), "an array");
}

TEST(SafetensorsHeader, RefusesTextThatIsNotUtf8) {
  for (const std::string bad : {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xc3", "\\ud800", "\x01"}) {
    expect_refused("{\"" + bad + "\":{}}", "not valid JSON");
    expect_refused("{\"__metadata__\":{\"k\":\"" + bad + "\"}}", "not valid JSON");
  }
}

TEST(SafetensorsHeader, RefusesTextAfterItsEnd) {
  for (const std::string tail : {"x", "{}", ",", "}", "1"}) {
    expect_refused("{}" + tail, "not valid JSON");
  }
}

}  // namespace
}  // namespace diffulex_edge
