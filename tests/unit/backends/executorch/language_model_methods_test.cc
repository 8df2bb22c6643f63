#include "backends/executorch/language_model_methods.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "support/tiny_model.h"

namespace diffulex_edge::executorch {
namespace {

const ProgramInputs kInputs = {.step_tokens = 16, .context_tokens = 64, .takes_fewer_tokens = true, .cache = "exact"};

class LanguageModelMethodsTest : public ::testing::Test {
 protected:
  LanguageModelMethodsTest() { testing::write_sdar(folder_ / "model"); }

  void add_file(const std::string& name, const std::string& text) {
    testing::write_file(folder_ / "model" / name, text);
  }
  LanguageModelMethods methods() const { return language_model_methods(load_model(folder_ / "model"), kInputs); }

  testing::TemporaryFolder folder_;
};

std::vector<ConstantValue> values_of(const LanguageModelMethods& found, const std::string& name) {
  const auto method = std::ranges::find(found.methods, name, &ConstantMethod::name);
  return method == found.methods.end() ? std::vector<ConstantValue>() : method->values;
}

std::vector<ConstantValue> ids(const std::vector<std::int64_t>& ids) { return {ids.begin(), ids.end()}; }

TEST_F(LanguageModelMethodsTest, GenerationConfigComesFirst) {
  add_file("generation_config.json", R"({"eos_token_id": [7, 9], "bos_token_id": 3})");
  const LanguageModelMethods found = methods();
  EXPECT_EQ(values_of(found, "get_eos_ids"), ids({7, 9}));
  EXPECT_EQ(values_of(found, "get_bos_id"), ids({3}));
  EXPECT_TRUE(found.warnings.empty());
}

TEST_F(LanguageModelMethodsTest, HowTheProgramIsCalled) {
  const LanguageModelMethods found = methods();
  EXPECT_EQ(values_of(found, "get_max_seq_len"), ids({16}));
  EXPECT_EQ(values_of(found, "get_max_context_len"), ids({64}));
  EXPECT_EQ(values_of(found, "use_kv_cache"), std::vector<ConstantValue>{true});
  EXPECT_EQ(values_of(found, "get_cache_kind"), std::vector<ConstantValue>{"exact"});
  EXPECT_EQ(values_of(found, "get_logits_kind"), std::vector<ConstantValue>{"all"});
}

TEST_F(LanguageModelMethodsTest, NoTokenOutsideOfTheVocabulary) {
  add_file("generation_config.json", R"({"eos_token_id": [-1, 4, 50, 18446744073709551615], "bos_token_id": 50})");
  const LanguageModelMethods found = methods();
  EXPECT_EQ(values_of(found, "get_eos_ids"), ids({4}));
  EXPECT_TRUE(values_of(found, "get_bos_id").empty());
}

TEST_F(LanguageModelMethodsTest, AnUnreadableTokenizerIsAWarning) {
  add_file("tokenizer_config.json", R"({"eos_token": {"content": "<end>"}, "mask_token": "<mask>"})");
  add_file("tokenizer.json", "{");
  const LanguageModelMethods found = methods();
  EXPECT_TRUE(values_of(found, "get_eos_ids").empty());
  EXPECT_TRUE(values_of(found, "get_mask_id").empty());
  EXPECT_EQ(values_of(found, "get_tokenizer_hash"),
            std::vector<ConstantValue>{"021fb596db81e6d02bf3d2586ee3981fe519f275c0ac9ca76bbcf2ebb4097d96"});
  ASSERT_EQ(found.warnings.size(), 2U);
  EXPECT_NE(found.warnings[0].find("get_mask_id"), std::string::npos) << found.warnings[0];
  EXPECT_NE(found.warnings[1].find("tokenizer.json"), std::string::npos) << found.warnings[1];
}

TEST_F(LanguageModelMethodsTest, AddedTokensNeedNoTokenizer) {
  add_file("tokenizer_config.json", R"({
    "eos_token": {"content": "<end>"}, "bos_token": "<begin>", "mask_token": "<mask>",
    "added_tokens_decoder": {"x": {"content": "<mask>"}, "4": {"content": "<end>"}, "5": "<begin>", "6": {}, "7":
      {"content": "<mask>", "special": true}}})");
  add_file("tokenizer.json", "{");
  const LanguageModelMethods found = methods();
  EXPECT_EQ(values_of(found, "get_eos_ids"), ids({4}));
  EXPECT_EQ(values_of(found, "get_mask_id"), ids({7}));
  EXPECT_TRUE(values_of(found, "get_bos_id").empty());
  ASSERT_EQ(found.warnings.size(), 1U);
  EXPECT_NE(found.warnings[0].find("get_bos_id"), std::string::npos) << found.warnings[0];
}

TEST_F(LanguageModelMethodsTest, AModuleHasNone) {
  Model model = load_model(folder_ / "model");
  model.path.clear();
  EXPECT_TRUE(language_model_methods(model, kInputs).methods.empty());
}

}  // namespace
}  // namespace diffulex_edge::executorch
