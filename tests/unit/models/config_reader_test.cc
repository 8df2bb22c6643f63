#include "models/config_reader.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::json;

ConfigReader reader_of(const char* text) { return {Json::parse(text), "config.json"}; }

template <typename Call>
void expect_bad(const std::string& key, const std::string& part, Call&& call) {
  testing::expect_error(ErrorCode::kBadFile, {"config.json: '" + key + "'", part}, call);
}

TEST(ConfigReader, TakesNothingButAnObject) {
  for (const char* text : {"[]", "1", "null", "\"x\""}) {
    testing::expect_error(ErrorCode::kBadFile, {"config.json", "not a JSON object"}, [&] { reader_of(text); });
  }
}

TEST(ConfigReader, CountsNullAsAbsent) {
  ConfigReader reader = reader_of(R"({"n": null, "v": 1})");
  EXPECT_FALSE(reader.has("n"));
  EXPECT_TRUE(reader.is_null("n"));
  EXPECT_FALSE(reader.is_null("absent"));
  EXPECT_FALSE(reader.is_null("v"));
  EXPECT_TRUE(reader.has("v"));
  for (const char* key : {"n", "absent"}) {
    EXPECT_FALSE(reader.integer(key).has_value());
    EXPECT_FALSE(reader.size(key).has_value());
    EXPECT_FALSE(reader.number(key).has_value());
    EXPECT_FALSE(reader.boolean(key).has_value());
    EXPECT_FALSE(reader.text(key).has_value());
    EXPECT_FALSE(reader.object(key).has_value());
    EXPECT_EQ(reader.value(key), nullptr);
    EXPECT_EQ(reader.positive(key, 2.5), 2.5);
    expect_bad(key, "is missing", [&] { reader.require_size(key); });
  }
}

TEST(ConfigReader, ReadsEachTypeAndRefusesTheOthers) {
  ConfigReader reader = reader_of(
      R"({"i": -3, "u": 18446744073709551615, "f": 1.5, "w": 2.0, "b": true, "s": "x", "o": {"k": 1}, "a": [1]})");
  EXPECT_EQ(reader.integer("i"), -3);
  EXPECT_EQ(reader.number("i"), -3.0);
  EXPECT_EQ(reader.number("f"), 1.5);
  EXPECT_EQ(reader.boolean("b"), true);
  EXPECT_EQ(reader.text("s"), "x");
  EXPECT_EQ(reader.object("o")->integer("k"), 1);
  EXPECT_EQ(*reader.value("a"), Json::parse("[1]"));
  for (const char* key : {"u", "f", "w", "b", "s", "o", "a"}) {
    expect_bad(key, "not an integer", [&] { reader.integer(key); });
  }
  for (const char* key : {"b", "s", "o", "a"}) {
    expect_bad(key, "not a finite number", [&] { reader.number(key); });
  }
  for (const char* key : {"i", "f", "s", "o", "a"}) {
    expect_bad(key, "not true or false", [&] { reader.boolean(key); });
  }
  for (const char* key : {"i", "f", "b", "o", "a"}) {
    expect_bad(key, "not a string", [&] { reader.text(key); });
  }
  for (const char* key : {"i", "f", "b", "s", "a"}) {
    testing::expect_error(ErrorCode::kBadFile, {"'" + std::string(key) + "'", "not a JSON object"},
                          [&] { reader.object(key); });
  }
}

TEST(ConfigReader, BoundsSizes) {
  ConfigReader reader =
      reader_of(R"({"zero": 0, "minus": -1, "one": 1, "most": 2147483648, "more": 2147483649, "huge": 1e300})");
  EXPECT_EQ(reader.size("one"), 1);
  EXPECT_EQ(reader.require_size("most"), 2147483648);
  for (const char* key : {"zero", "minus", "more"}) {
    expect_bad(key, "not a size from 1 to 2^31", [&] { reader.size(key); });
  }
  expect_bad("huge", "not an integer", [&] { reader.size("huge"); });
}

TEST(ConfigReader, TakesOnlyPositiveNumbersWhereItMust) {
  ConfigReader reader =
      reader_of(R"({"zero": 0, "minus": -1e-6, "tiny": 1e-30, "denormal": 1e-300, "huge": 1e300, "four": 4})");
  EXPECT_EQ(reader.positive("tiny", 1.0), 1e-30);
  for (const char* key : {"denormal", "huge"}) {
    testing::expect_error(ErrorCode::kBadFile, {key, "float32"}, [&] { reader.positive(key, 1.0); });
  }
  EXPECT_EQ(reader.positive("four", 1.0), 4.0);
  expect_bad("zero", "not a positive number", [&] { reader.positive("zero", 1.0); });
  expect_bad("minus", "not a positive number", [&] { reader.positive("minus", 1.0); });
}

TEST(ConfigReader, ExpectsOrdinaryValues) {
  ConfigReader reader = reader_of(R"({"same": 1, "whole": 1.0, "other": 2, "null": null})");
  EXPECT_NO_THROW(reader.expect("same", 1));
  EXPECT_NO_THROW(reader.expect("whole", 1));
  EXPECT_NO_THROW(reader.expect("null", 1));
  EXPECT_NO_THROW(reader.expect("absent", 1));
  testing::expect_error(ErrorCode::kUnsupported, {"'other'", "is 2", "supported is 1"},
                        [&] { reader.expect("other", 1); });
  for (const char* key : {"null", "absent"}) {
    testing::expect_error(ErrorCode::kUnsupported, {std::string("'") + key + "'", "is absent, which means 2"},
                          [&] { reader.expect(key, 1, 2); });
  }
}

TEST(ConfigReader, FinishesOnlyWhenEveryKeyIsUnderstood) {
  ConfigReader reader = reader_of(R"({"read": 1, "ignored": 2, "_private": 3, "null": null, "unread": 4})");
  reader.integer("read");
  reader.ignore({"ignored"});
  testing::expect_error(ErrorCode::kUnsupported, {"'unread'", "not known", "--ignore-config-key unread"},
                        [&] { reader.finish(); });
  reader.set_harmless({"unread"});
  EXPECT_NO_THROW(reader.finish());
}

TEST(ConfigReader, NamesAllUnknownKeysAndTheLineThatLetsThemPass) {
  const ConfigReader reader = reader_of(R"({"c": 1, "a": 2, "b": {"x": 3}, "none": null})");
  testing::expect_error(ErrorCode::kUnsupported,
                        {"config.json: 'a', 'b' and 'c': are not known here and could change the mathematics (if they "
                         "do not, say --ignore-config-key a --ignore-config-key b --ignore-config-key c)"},
                        [&] { reader.finish(); });
}

TEST(ConfigReader, SaysThePathOfNestedKeys) {
  ConfigReader reader = reader_of(R"({"rope_scaling": {"factor": "x"}})");
  auto nested = reader.object("rope_scaling");
  testing::expect_error(ErrorCode::kBadFile, {"config.json: 'rope_scaling': 'factor'"},
                        [&] { nested->number("factor"); });
}

}  // namespace
}  // namespace diffulex_edge
