#include "diffulex_edge/report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

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
                          "original_mib",
                          "quantized_mib",
                          "reduction_pct",
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
  EXPECT_NEAR(bytes / (1024 * 1024), json["quantized_mib"].get<double>(), 1e-9);
}

TEST_F(ExportReportTest, HtmlEscapesNames) {
  const std::string html = to_html(report());
  EXPECT_NE(html.find("&lt;out&gt; &amp; &quot;x&quot;.pte"), std::string::npos);
  EXPECT_EQ(html.find("<out>"), std::string::npos);
  EXPECT_NE(html.find("layers.3.q_proj"), std::string::npos);
}

TEST_F(ExportReportTest, TextSaysThatADryRunWroteNothing) {
  EXPECT_NE(to_text(report()).find("nothing written"), std::string::npos);
}

TEST(Matrix, HasSixFormatsAndThreeBackends) {
  const Json json = Json::parse(matrix_json());
  EXPECT_EQ(json["rows"].size(), 6U);
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
    config.quant_config.activations = testing::wide_activations(static_cast<int>(model.config.num_layers));
    const ExportResult result = XNNPACKBackend(config).dry_run(model);
    EXPECT_EQ(result.success, row["xnnpack"]["level"] == "full") << row << result.error_message;
  }
}

}  // namespace
}  // namespace diffulex_edge
