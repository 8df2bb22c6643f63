#include "diffulex_edge/report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "diffulex_edge/xnnpack_backend.h"
#include "support/static_ranges.h"

namespace diffulex_edge {
namespace {

using Json = nlohmann::json;

class ExportReportTest : public ::testing::Test {
 protected:
  ExportReportTest() {
    config_.quant_config.dtype = QuantizationDtype::INT8;
    metadata_ = XNNPACKBackend(config_).dry_run(model_).metadata;
  }
  ExportReport report() const { return {model_, config_, metadata_, "<out> & \"x\".pte"}; }

  Model model_ = load_model(DIFFULEX_EDGE_EXAMPLES_DIR "/tiny-llada");
  BackendConfig config_;
  ExportMetadata metadata_;
};

TEST_F(ExportReportTest, JsonHasTheDocumentedKeys) {
  const Json json = Json::parse(to_json(report()));
  for (const char* key : {"success",
                          "output",
                          "model",
                          "family",
                          "backend",
                          "method",
                          "seq_len",
                          "block_length",
                          "dtype",
                          "mode",
                          "group_size",
                          "activation_dtype",
                          "dry_run",
                          "file_bytes",
                          "parameters",
                          "original_memory_mb",
                          "quantized_memory_mb",
                          "memory_reduction_pct",
                          "compression_ratio",
                          "seconds",
                          "peak_rss_bytes",
                          "operators_outside_delegate",
                          "warnings",
                          "layers"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_EQ(json["family"], "llada");
  EXPECT_EQ(json["dtype"], "int8");
  EXPECT_EQ(json["dry_run"], true);
  EXPECT_EQ(json["parameters"], 2885888);
}

TEST_F(ExportReportTest, StoredBytesOfTheLayersAddUpToTheTotal) {
  const Json json = Json::parse(to_json(report()));
  double bytes = 0;
  for (const Json& layer : json["layers"]) {
    bytes += layer["stored_bytes"].get<double>();
  }
  EXPECT_NEAR(bytes / 1e6, json["quantized_memory_mb"].get<double>(), 1e-9);
}

// What Python reads is what the command prints.
TEST_F(ExportReportTest, MetadataHaveTheNamesOfTheWholeReport) {
  const Json whole = Json::parse(to_json(report()));
  const Json metadata = Json::parse(to_json(metadata_));
  ASSERT_GT(metadata.size(), 15U);
  for (const auto& [key, value] : metadata.items()) {
    EXPECT_EQ(whole.value(key, Json()), value) << key;
  }
}

TEST_F(ExportReportTest, LayersHaveOneNameInJsonAndOnThePage) {
  const Json json = Json::parse(to_json(report()));
  const std::string html = to_html(report());
  for (const char* key :
       {"layer", "tensor", "rows", "columns", "source", "format", "method", "kernel", "stored_bytes"}) {
    EXPECT_TRUE(json["layers"][1].contains(key) || json["layers"][2].contains(key)) << key;
    EXPECT_NE(html.find(std::string(">") + key + "</th>"), std::string::npos) << key;
  }
}

TEST_F(ExportReportTest, PlacementIsNamedByWhatExecutes) {
  metadata_.placement = Placement{.npu = {{"MatMul", 3}}, .host = {{"Gather", 1}}, .binaries = {{.soc = "SM8550"}}};
  const Json json = Json::parse(to_json(report()));
  EXPECT_EQ(json["placement"]["npu"]["MatMul"], 3);
  EXPECT_EQ(json["placement"]["host"]["Gather"], 1);
  EXPECT_EQ(json["placement"]["binaries"][0]["soc"], "SM8550");
}

TEST_F(ExportReportTest, HtmlEscapesNames) {
  const std::string html = to_html(report());
  EXPECT_NE(html.find("&lt;out&gt; &amp; &quot;x&quot;.pte"), std::string::npos);
  EXPECT_EQ(html.find("<out>"), std::string::npos);
  EXPECT_NE(html.find("layers.3.q_proj"), std::string::npos);
}

// Seven charts of equal bars said nothing that the sizes by kind did not.
TEST_F(ExportReportTest, HtmlLeavesOutWhatIsTheSameInEveryBlock) {
  EXPECT_EQ(to_html(report()).find("Each linear layer"), std::string::npos);
  config_.quant_config.exclude_layers = {"layers.3.q_proj"};
  metadata_ = XNNPACKBackend(config_).dry_run(model_).metadata;
  const std::string html = to_html(report());
  EXPECT_NE(html.find("Each linear layer"), std::string::npos);
  EXPECT_NE(html.find("<figcaption>q_proj</figcaption>"), std::string::npos);
  EXPECT_EQ(html.find("<figcaption>k_proj</figcaption>"), std::string::npos);
  EXPECT_NE(html.find("The same in every block: k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj."),
            std::string::npos);
}

TEST_F(ExportReportTest, HtmlBeginsWithAVerdict) {
  const std::string html = to_html(report());
  EXPECT_NE(html.find("<p class=\"verdict\">The file would take 4."), std::string::npos);
  EXPECT_NE(html.find(" times smaller than the weights in FP32, with 28 linear layers in int8, 1 in fp32;"),
            std::string::npos);
}

TEST_F(ExportReportTest, TextSaysThatADryRunWroteNothing) {
  EXPECT_NE(to_text(report()).find("nothing written"), std::string::npos);
}

TEST(Matrix, HasEveryFormatAndThreeBackends) {
  const Json json = Json::parse(matrix_json());
  const std::vector<std::string> first = {"FP32", "FP16", "INT8 Dynamic", "INT8 Static", "INT8 Weight-only"};
  for (std::size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(json["rows"][i]["quantization"], first[i]);
  }
  EXPECT_EQ(json["rows"].size(), all_formats().size() + 2);  // INT8 in three modes
  for (const Json& row : json["rows"]) {
    for (const char* backend : {"xnnpack", "coreml", "qnn"}) {
      EXPECT_TRUE(row[backend].contains("level"));
      EXPECT_FALSE(row[backend]["note"].get<std::string>().empty());
    }
  }
}

TEST(Matrix, ClaimsWhatAnExportDoesAndNothingElse) {
  const Model model = load_model(DIFFULEX_EDGE_EXAMPLES_DIR "/tiny-llada");
  const Json json = Json::parse(matrix_json());
  for (const Json& row : json["rows"]) {
    BackendConfig config;
    config.quant_config.dtype = parse_quantization_dtype(row["dtype"].get<std::string>());
    config.quant_config.mode = parse_quantization_mode(row["mode"].get<std::string>());
    const CalibrationFindings findings = testing::wide_findings(static_cast<int>(model.config.num_layers));
    const ExportResult result = XNNPACKBackend(config).dry_run(model, findings);
    EXPECT_EQ(result.success, row["xnnpack"]["level"] == "full") << row << result.error_message;
  }
}

}  // namespace
}  // namespace diffulex_edge
