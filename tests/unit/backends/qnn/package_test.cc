#include "backends/qnn/package.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "support/safetensors_text.h"
#include "support/temporary_folder.h"

namespace diffulex_edge::qnn {
namespace {

using Json = nlohmann::json;

class QnnManifest : public ::testing::Test {
 protected:
  QnnManifest() : checkpoint_(write_checkpoint()), distinct_(checkpoint_), lowered_(checkpoint_, distinct_, false) {
    lowered_.models.push_back(std::make_unique<OnnxModel>("model"));
    OnnxGraph& graph = lowered_.models.front()->graph;
    const auto x = graph.input("input_ids", {.dtype = OnnxDtype::kInt32, .sizes = {1, 8}});
    graph.output(graph.add("F", {x}, {}, {.dtype = OnnxDtype::kFloat, .sizes = {1, 8, 50}}), "logits");
    lowered_.data.add_computed(std::vector<std::byte>(65));
    lowered_.data.add_computed(std::vector<std::byte>(3));
  }
  std::filesystem::path write_checkpoint() const {
    testing::write_file(folder_ / "m.safetensors",
                        testing::safetensors_file({{.name = "a", .shape = {1, 1}, .bytes = "1234"}}));
    return folder_ / "m.safetensors";
  }
  Json describe(const ManifestFacts& facts = {.model_sha256 = {"abc"}}) const {
    const std::string text = describe_package(lowered_, facts);
    EXPECT_EQ(text.back(), '\n');
    return Json::parse(text);
  }
  testing::TemporaryFolder folder_;
  Checkpoint checkpoint_;
  DistinctTensors distinct_;
  LoweredModel lowered_;
};

TEST(QnnEncodingsFile, HasTheLayoutOfAimet) {
  const std::string text = describe_encodings(
      {{"b", {.bits = 8, .scale = 0.5F, .zero_point = 3}}, {"a", {.bits = 16, .scale = 0.25F, .zero_point = 65535}}});
  EXPECT_EQ(text.back(), '\n');
  const Json all = Json::parse(text);
  EXPECT_EQ(all.size(), 3U);
  EXPECT_EQ(all.at("version"), "0.6.1");
  EXPECT_EQ(all.at("param_encodings"), Json::object());
  const Json& activations = all.at("activation_encodings");
  EXPECT_EQ(activations.size(), 2U);
  const Json expected = {{"bitwidth", 8}, {"dtype", "int"}, {"is_symmetric", "False"}, {"max", 126.0}, {"min", -1.5},
                         {"offset", -3},  {"scale", 0.5}};
  EXPECT_EQ(activations.at("b"), Json::array({expected}));
  const Json& a = activations.at("a").at(0);
  EXPECT_EQ(a.at("bitwidth"), 16);
  EXPECT_EQ(a.at("offset"), -65535);
  EXPECT_EQ(a.at("min"), -16383.75);
  EXPECT_EQ(a.at("max"), 0.0);
}

TEST(QnnEncodingsFile, HoldsEncodingsExactly) {
  for (const ActivationRange range : {ActivationRange{-1.0F, 3.0F}, {0.0F, 1.0F}, {-1e-6F, 1e6F}, {-7.3F, 0.0F}}) {
    for (const int bits : {8, 16}) {
      const Encoding encoding = choose_encoding(range, bits);
      const Json all = Json::parse(describe_encodings({{"x", encoding}}));
      const Json& entry = all.at("activation_encodings").at("x").at(0);
      const auto scale = entry.at("scale").get<double>();
      EXPECT_EQ(static_cast<float>(scale), encoding.scale);
      EXPECT_EQ(entry.at("offset"), -encoding.zero_point);
      // As AIMET reads them: min is offset steps from 0, max 2^bits - 1 steps from min.
      const auto min = entry.at("min").get<double>();
      EXPECT_DOUBLE_EQ(min, entry.at("offset").get<double>() * scale);
      EXPECT_NEAR(entry.at("max").get<double>() - min, (std::ldexp(1.0, bits) - 1.0) * scale, 1e-9 * scale * 65535);
      EXPECT_NEAR(min, range.min, scale);
    }
  }
}

TEST_F(QnnManifest, SaysWhatIsInTheModel) {
  const Json manifest = describe({.notes = {{"options", "dtype=int8"}, {"family", "sdar"}},
                                  .model_sha256 = {"abc"},
                                  .compiler = {},
                                  .contexts = {}});
  EXPECT_EQ(manifest.at("format"), "diffulex-edge-qnn");
  EXPECT_EQ(manifest.at("version"), 1);
  EXPECT_EQ(manifest.at("options"), "dtype=int8");
  EXPECT_EQ(manifest.at("family"), "sdar");
  EXPECT_EQ(manifest.at("data"), (Json{{"file", "model.onnx.data"}, {"bytes", 128 + 3}}));
  ASSERT_EQ(manifest.at("models").size(), 1U);
  const Json& model = manifest.at("models").at(0);
  EXPECT_EQ(model.at("file"), "model.onnx");
  EXPECT_EQ(model.at("sha256"), "abc");
  EXPECT_EQ(model.at("runs_on"), "npu");
  EXPECT_EQ(model.at("inputs"), Json::array({{{"name", "input_ids"}, {"dtype", "int32"}, {"shape", {1, 8}}}}));
  EXPECT_EQ(model.at("outputs"), Json::array({{{"name", "logits"}, {"dtype", "float32"}, {"shape", {1, 8, 50}}}}));
  EXPECT_TRUE(manifest.at("compiler").is_null());
  EXPECT_EQ(manifest.at("contexts"), Json::array());
}

TEST_F(QnnManifest, NamesTheEncodingsWhereThereAreSome) {
  EXPECT_FALSE(describe().at("models").at(0).contains("encodings"));
  lowered_.models.front()->encodings["x"] = {};
  EXPECT_EQ(describe().at("models").at(0).at("encodings"), "encodings.json");
}

TEST_F(QnnManifest, DescribesACache) {
  OnnxModel& model = *lowered_.models.front();
  model.step_tokens = 8;
  const OnnxType type{.dtype = OnnxDtype::kUint8, .sizes = {1, 2, 4, 16}};
  const auto past = model.graph.input("past_key_0", type);
  const auto fresh = model.graph.add("F", {past}, {}, {.dtype = OnnxDtype::kUint8, .sizes = {1, 8, 2, 4}});
  model.graph.output(fresh, "key_0");
  model.caches = {{.past = past, .fresh = fresh, .token_axis = 3}};
  model.integers = {{past, {.bits = 8, .scale = 0.5F, .zero_point = 7}}};
  lowered_.mask = MaskValues{.hidden = 0.0, .visible = 255.0};
  const Json manifest = describe(
      {.model_sha256 = {"abc"},
       .cache = CacheSettings{.tokens = 16, .block_sizes = {8}},
       .language_model = {{.name = "get_vocab_size", .values = {std::int64_t{50}}},
                          {.name = "use_kv_cache", .values = {true}},
                          {.name = "use_shifted_logits", .values = {false}},
                          {.name = "get_eos_ids", .values = {std::int64_t{1}, std::int64_t{2}}, .is_list = true}}});
  const Json cache = {{"tokens", 16},     {"block_tokens", {8}}, {"kind", "exact"},
                      {"dtype", "uint8"}, {"bytes", 128},        {"mask", {{"hidden", 0.0}, {"visible", 255.0}}}};
  EXPECT_EQ(manifest.at("cache"), cache);
  const Json facts = {
      {"get_vocab_size", 50}, {"use_kv_cache", true}, {"use_shifted_logits", false}, {"get_eos_ids", {1, 2}}};
  EXPECT_EQ(manifest.at("language_model"), facts);
  const Json& entry = manifest.at("models").at(0);
  EXPECT_EQ(entry.at("step_tokens"), 8);
  EXPECT_EQ(entry.at("caches"), Json::array({{{"past", "past_key_0"}, {"new", "key_0"}, {"token_axis", 3}}}));
  EXPECT_EQ(entry.at("inputs").at(1).at("zero_point"), 7);
  EXPECT_EQ(entry.at("inputs").at(1).at("scale"), 0.5);
}

TEST_F(QnnManifest, DescribesEachContext) {
  const Soc& soc = parse_soc("SM8550");
  const CompiledContext context{.model = "/tmp/of the export/SM8550/model_ctx.onnx",
                                .binary = "/tmp/of the export/SM8550/model_ctx_qnn.bin",
                                .bytes = 12,
                                .graph_name = "QNN_1",
                                .seconds = 2.5,
                                .peak_rss_bytes = 99};
  const Json manifest = describe(
      {.notes = {},
       .model_sha256 = {"abc"},
       .compiler = "QAIRT 2",
       .contexts = {{.soc = &soc, .source = "model.onnx", .context = context, .sha256 = "def", .program = {}}}});
  EXPECT_EQ(manifest.at("compiler"), "QAIRT 2");
  EXPECT_EQ(manifest.at("contexts"), Json::array({{{"soc", "SM8550"},
                                                   {"soc_model", 43},
                                                   {"htp_arch", 73},
                                                   {"source", "model.onnx"},
                                                   {"model", "SM8550/model_ctx.onnx"},
                                                   {"binary", "SM8550/model_ctx_qnn.bin"},
                                                   {"graph", "QNN_1"},
                                                   {"bytes", 12},
                                                   {"sha256", "def"},
                                                   {"compile_seconds", 2.5},
                                                   {"compile_peak_rss_bytes", 99}}}));
}

TEST_F(QnnManifest, MakesAFolderAPackage) {
  testing::write_file(folder_ / "manifest.json", describe_package(lowered_, {.model_sha256 = {"abc"}}));
  EXPECT_TRUE(is_package(folder_.path()));
}

TEST(QnnPackages, AreNotWhatOthersMade) {
  const testing::TemporaryFolder folder;
  EXPECT_FALSE(is_package(folder.path()));
  EXPECT_FALSE(is_package(folder / "none"));
  EXPECT_FALSE(is_package("/proc/self/exe"));
  for (const char* manifest :
       {"", "{", "no JSON", "[]", "null", "\"diffulex-edge-qnn\"", "{}", R"({"format": "diffulex-edge-coreml"})",
        R"({"format": 1})", R"({"format": ["diffulex-edge-qnn"]})", R"(["format", "diffulex-edge-qnn"])",
        "{\"format\": \"diffulex-edge-qnn\"", "{\"format\": \"\xFF\"}"}) {
    testing::write_file(folder / "manifest.json", manifest);
    EXPECT_FALSE(is_package(folder.path())) << manifest;
  }
  testing::write_file(folder / "manifest.json", R"({"format": "diffulex-edge-qnn"})");
  EXPECT_TRUE(is_package(folder.path()));
  std::filesystem::remove(folder / "manifest.json");
  std::filesystem::create_directory(folder / "manifest.json");
  EXPECT_FALSE(is_package(folder.path()));
}

}  // namespace
}  // namespace diffulex_edge::qnn
