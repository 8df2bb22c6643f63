#include "bundle/bundle.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/sha256.h"
#include "diffusion/bundled_generation.h"
#include "diffusion/decoding_settings.h"
#include "diffusion/text_tokens.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

using nlohmann::json;

std::string digest(std::string_view text) { return sha256_hex(std::as_bytes(std::span(text))); }

Bundle some_bundle() {
  return {.folder = {},
          .artefact = {.name = "model.pte", .backend = "xnnpack", .bytes = 7, .sha256 = digest("program")},
          .model = {.family = "sdar",
                    .vocab_size = 100,
                    .block_length = 4,
                    .mask_token_id = 1,
                    .eos_ids = {0, 2},
                    .bos_id = 3,
                    .has_shifted_logits = false,
                    .max_tokens = 64,
                    .max_step_tokens = 32,
                    .step_sizes = {4, 32},
                    .cache = "exact",
                    .logits = "rows",
                    .tokenizer_sha256 = digest("{}")},
          .decoding = {.max_new_tokens = 128,
                       .temperature = 0.5,
                       .remasking = "sequential",
                       .threshold = 0.9,
                       .block_length = std::nullopt,
                       .sub_block_length = std::nullopt,
                       .editing_threshold = 0.5,
                       .max_post_steps = 3,
                       .expand_id = std::nullopt,
                       .initial_masks = std::nullopt}};
}

class BundleTest : public ::testing::Test {
 protected:
  Bundle read_text(const std::string& text) {
    testing::write_file(folder_ / "generation.json", text);
    return read_bundle(folder_.path());
  }
  // With another value at `pointer`; null takes the key away.
  void expect_refused(ErrorCode code, const char* pointer, const json& value) {
    json document = json::parse(to_json(some_bundle()));
    const json::json_pointer place(pointer);
    if (value.is_null()) {
      document[place.parent_pointer()].erase(place.back());
    } else {
      document[place] = value;
    }
    SCOPED_TRACE(pointer + (" " + value.dump()));
    testing::expect_error(code, {"generation.json"}, [&] { read_text(document.dump()); });
  }
  testing::TemporaryFolder folder_;
};

TEST_F(BundleTest, ACanvasThatGrowsNeedsAReaderThatKnowsIt) {
  Bundle bundle = some_bundle();
  EXPECT_EQ(json::parse(to_json(bundle))["version"], 1);
  bundle.decoding.expand_id = 7;
  bundle.decoding.initial_masks = 2;
  EXPECT_EQ(json::parse(to_json(bundle))["version"], 2);
  const DiffusionGenerationConfig config = generation_config(read_text(to_json(bundle)));
  EXPECT_EQ(config.expand_id, 7);
  EXPECT_EQ(config.initial_masks, 2);
  EXPECT_EQ(config.editing_threshold, 0.5);
  EXPECT_EQ(config.max_post_steps, 3);
}

TEST_F(BundleTest, WhatIsWrittenIsRead) {
  const std::string text = to_json(some_bundle());
  const Bundle bundle = read_text(text);
  EXPECT_EQ(to_json(bundle), text);
  EXPECT_EQ(bundle.artefact_path(), folder_ / "model.pte");
  EXPECT_TRUE(is_bundle(folder_.path()));
  const ArtefactFacts facts = artefact_facts(bundle.model);
  EXPECT_EQ(facts.config.mask_token_id, 1);
  EXPECT_TRUE(facts.has_cache);
  const DiffusionGenerationConfig config = generation_config(bundle);
  EXPECT_EQ(config.remasking, Remasking::SEQUENTIAL);
  EXPECT_EQ(config.eos_ids, (std::vector<std::int64_t>{0, 2}));
  EXPECT_EQ(config.threshold, 0.9);
}

TEST_F(BundleTest, EachValueHasItsBounds) {
  for (const char* key : {"/format", "/version", "/artefact", "/model", "/decoding", "/artefact/name",
                          "/artefact/sha256", "/artefact/bytes", "/model/family", "/model/vocab_size",
                          "/model/mask_token_id", "/model/eos_ids", "/model/shifted_logits", "/model/max_tokens",
                          "/model/step_sizes", "/model/cache", "/model/tokenizer_sha256", "/decoding/max_new_tokens"}) {
    expect_refused(ErrorCode::kBadFile, key, nullptr);
    expect_refused(ErrorCode::kBadFile, key, json::array({json::object()}));
  }
  for (const char* key : {"/artefact/bytes", "/model/vocab_size", "/model/block_length", "/model/mask_token_id",
                          "/model/max_tokens", "/model/max_step_tokens", "/decoding/max_new_tokens"}) {
    for (const json& number : {json(-1), json(1.5), json(INT64_MAX), json(UINT64_MAX), json("1")}) {
      expect_refused(ErrorCode::kBadFile, key, number);
    }
  }
  expect_refused(ErrorCode::kUnsupported, "/version", 3);
  expect_refused(ErrorCode::kBadFile, "/model/eos_ids", {100});
  expect_refused(ErrorCode::kBadFile, "/model/step_sizes", {4, 33});
  expect_refused(ErrorCode::kBadFile, "/model/max_step_tokens", 65);
  expect_refused(ErrorCode::kBadFile, "/model/cache", "approximate");
  expect_refused(ErrorCode::kBadFile, "/model/logits", "most");
  for (const char* name : {"", ".", "..", "../model.pte", "a/b", "/etc/passwd", ".hidden", "a\\b"}) {
    expect_refused(ErrorCode::kBadFile, "/artefact/name", name);
  }
}

TEST_F(BundleTest, FilesAreThoseThatWereWritten) {
  const Bundle bundle = read_text(to_json(some_bundle()));
  testing::write_file(folder_ / "tokenizer.json", "{}");
  testing::expect_error(ErrorCode::kBadFile, {"model.pte"}, [&] { check_files(bundle); });
  testing::write_file(folder_ / "model.pte", "program");
  check_files(bundle);
  testing::write_file(folder_ / "model.pte", "programs");
  testing::expect_error(ErrorCode::kBadFile, {"model.pte", "8 bytes"}, [&] { check_files(bundle); });
  testing::write_file(folder_ / "model.pte", "progran");
  testing::expect_error(ErrorCode::kBadFile, {"model.pte", "SHA-256"}, [&] { check_files(bundle); });
  testing::write_file(folder_ / "model.pte", "program");
  testing::write_file(folder_ / "tokenizer.json", "[]");
  testing::expect_error(ErrorCode::kBadFile, {"tokenizer.json"}, [&] { check_files(bundle); });
}

TEST_F(BundleTest, AFolderHasTheDigestOfItsFilesLines) {
  const std::filesystem::path artefact = folder_ / "model";
  std::filesystem::create_directories(artefact / "b");
  testing::write_file(artefact / "b" / "x", "one");
  testing::write_file(artefact / "a", "three");
  const ArtefactDigest found = digest_of(artefact);
  EXPECT_EQ(found.bytes, 8);
  EXPECT_EQ(found.sha256, digest(digest("three") + "  a\n" + digest("one") + "  b/x\n"));
}

// Found by damaging a tokenizer.json: opening it went through all ids up to the largest.
TEST_F(BundleTest, ATokenOfAnyNumberIsReadAtOnce) {
  testing::write_file(folder_ / "tokenizer.json", R"({
    "added_tokens": [{"id": 4, "content": "<m>", "special": true}], "pre_tokenizer": {"type": "ByteLevel"},
    "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {"a": 0, "b": 2147483647, "<m>": 4}, "merges": []}})");
  const TextTokens tokens(folder_.path());
  EXPECT_EQ(tokens.special_tokens(), (std::set<std::int64_t>{4}));
}

// Asking for what a family does anyway changes nothing.
TEST(FamilyDefaults, AreWhatDecodingDoes) {
  for (const auto& [family, block_length] : std::vector<std::pair<std::string, std::int64_t>>{
           {"llada", 0}, {"dream", 0}, {"sdar", 4}, {"fast_dllm_v2", 32}, {"fast_dllm_v2", 4}, {"qwen3", 1}}) {
    ModelConfig model;
    model.family = family;
    model.block_length = block_length;
    model.vocab_size = 100;
    model.mask_token_id = 1;
    for (const std::int64_t tokens : {1, 10, 64}) {
      const DecodingSettings usual = decoding_settings(model, {}, tokens);
      const DecodingSettings asked = decoding_settings(model, family_defaults(model), tokens);
      EXPECT_EQ(asked.block_length, usual.block_length) << family;
      EXPECT_EQ(asked.sub_block_length, usual.sub_block_length) << family;
      EXPECT_EQ(asked.steps_per_block, usual.steps_per_block) << family;
      EXPECT_EQ(asked.schedule, usual.schedule) << family;
      EXPECT_EQ(asked.rule.selection, usual.rule.selection) << family;
      EXPECT_EQ(asked.rule.threshold, usual.rule.threshold) << family;
      EXPECT_EQ(asked.sampler.confidence, usual.sampler.confidence) << family;
    }
  }
}

}  // namespace
}  // namespace diffulex_edge
