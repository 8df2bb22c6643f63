#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "diffulex_edge/report.h"

namespace diffulex_edge {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What one sequence gives: no interval.
Estimate alone(double mean) { return {.mean = mean, .low = -kInfinity, .high = kInfinity}; }

class EvaluationPageTest : public ::testing::Test {
 protected:
  EvaluationPageTest() {
    QuantizationConfig config;
    config.dtype = QuantizationDtype::INT8;
    plan_ = quantize_model(model_, config).plan;
    result_.sets = {{.label = "<b>",
                     .tokens = 3,
                     .loss = alone(2.5),
                     .accuracy = 0.5,
                     .comparison = ReferenceComparison{.reference_loss = alone(2.0),
                                                       .loss_increase = alone(0.5),
                                                       .kl_divergence = alone(0.25),
                                                       .agreement = 0.75,
                                                       .commit_flip_rate = 0.125}}};
    result_.layers = {{"layers.0.q_proj", kInfinity}, {"layers.1.q_proj", 30.0}, {"lm_head", 20.0}};
    formats_ = {.original_bytes = 1 << 20,
                .formats = {{.name = "fp16", .config = {}, .planned_bytes = 1 << 19, .sets = result_.sets}},
                .left_out = {{"int4, groups of <64>", "they do not divide"}}};
    formats_.formats[0].config.dtype = QuantizationDtype::FP16;
  }

  EvaluationReport report() const {
    return {.model = model_,
            .plan = &plan_,
            .result = result_,
            .data = "<data>",
            .reference = "a & b",
            .warnings = {"be <careful>"},
            .formats = &formats_,
            .provenance = {.command = "diffulex-edge evaluate 'a b'", .model_hash = ModelHash{"abc", {{"f", 1, "d"}}}}};
  }

  Model model_ = load_model(DIFFULEX_EDGE_EXAMPLES_DIR "/tiny-llada");
  QuantizationPlan plan_;
  EvaluationResult result_;
  FormatComparison formats_;
};

TEST_F(EvaluationPageTest, EscapesWhatIsNotItsOwn) {
  const std::string html = to_html(report());
  for (const char* text :
       {"set &lt;b&gt;", "&lt;data&gt;", "a &amp; b", "be &lt;careful&gt;", "groups of &lt;64&gt;"}) {
    EXPECT_NE(html.find(text), std::string::npos) << text;
  }
  EXPECT_EQ(html.find("<careful>"), std::string::npos);
  EXPECT_EQ(html.find("<64>"), std::string::npos);
}

TEST_F(EvaluationPageTest, ShowsFiguresAndNeverWhatIsNotFinite) {
  const std::string html = to_html(report());
  for (const char* text : {"2.5000", "+0.5000", "0.25000", "75.0%", "12.5%", "no error at all", "1 warning"}) {
    EXPECT_NE(html.find(text), std::string::npos) << text;
  }
  EXPECT_EQ(html.find("± inf"), std::string::npos);
  EXPECT_EQ(html.find("nan"), std::string::npos);
}

TEST_F(EvaluationPageTest, DoesWithoutAComparison) {
  result_.sets[0].comparison.reset();
  result_.layers.clear();
  EvaluationReport plain{.model = model_, .result = result_, .data = "d", .reference = {}, .warnings = {}};
  const std::string html = to_html(plain);
  EXPECT_NE(html.find("Loss, set &lt;b&gt;"), std::string::npos);
  EXPECT_NE(html.find("The loss is 2.5000 nats on set &lt;b&gt;; nothing was compared."), std::string::npos);
  EXPECT_EQ(html.find("Loss against size"), std::string::npos);
  EXPECT_EQ(html.find("KL"), std::string::npos);
}

TEST_F(EvaluationPageTest, ExplainsTheWordsThatItUsesAndNoOthers) {
  const std::string without = to_html(report());
  EXPECT_NE(without.find("<dt>commits flipped</dt>"), std::string::npos);
  EXPECT_NE(without.find("<dt>KL</dt>"), std::string::npos);
  EXPECT_EQ(without.find("<dt>bound</dt>"), std::string::npos);
  EXPECT_EQ(without.find("<dt>next</dt>"), std::string::npos);
  result_.sets[0].label = "bound";
  formats_.formats[0].sets[0].label = "bound";
  EXPECT_NE(to_html(report()).find("<dt>bound</dt>"), std::string::npos);
}

TEST_F(EvaluationPageTest, SaysInWordsThatAnIntervalHoldsZero) {
  result_.sets[0].comparison->loss_increase = {.mean = 0.5, .low = -0.25, .high = 1.25};
  formats_.formats[0].sets[0].comparison->loss_increase = {.mean = 0.75, .low = 0.5, .high = 1.0};
  const std::string html = to_html(report());
  EXPECT_NE(html.find(">no measurable difference</td>"), std::string::npos);
  EXPECT_NE(html.find("no measurable difference in loss, and another token"), std::string::npos);
  EXPECT_NE(html.find(">not measurable</text>"), std::string::npos);
  EXPECT_NE(html.find(">+0.7500 ± 0.2500</text>"), std::string::npos);
  EXPECT_NE(html.find("class=\"mark point outline s4\""), std::string::npos);  // this run
  EXPECT_NE(html.find("class=\"mark point s1\""), std::string::npos);          // fp16
}

// Its increase is over that reference, and the chart's over the model in float32.
TEST_F(EvaluationPageTest, AnotherReferenceGivesNoIntervalInTheChart) {
  result_.sets[0].comparison->reference_loss.mean = 2.25;
  result_.sets[0].comparison->loss_increase = {.mean = 0.25, .low = 0.2, .high = 0.3};
  const std::string html = to_html(report());
  EXPECT_NE(html.find("loss 2.5000 (+0.5000, no interval)</title>"), std::string::npos);
  EXPECT_EQ(html.find(">+0.2500 ± 0.0500</text>"), std::string::npos);
}

TEST_F(EvaluationPageTest, JsonHasTheFormatsAndWhereTheyComeFrom) {
  const auto json = nlohmann::json::parse(to_json(report()));
  EXPECT_EQ(json["formats"][0]["kl_divergence"]["<b>"], 0.25);
  EXPECT_EQ(json["formats"][0]["planned_bytes"], 1 << 19);
  EXPECT_EQ(json["formats_left_out"][0]["reason"], "they do not divide");
  EXPECT_EQ(json["model_sha256"], "abc");
  EXPECT_EQ(json["command"], "diffulex-edge evaluate 'a b'");
  EXPECT_EQ(json["planned_bytes"], planned_bytes(plan_));
  EXPECT_EQ(json["layers"][0]["signal_to_noise_db"], nullptr);
  EXPECT_EQ(json["layers"][1]["format"], "i8 per channel, f32 scales");
}

}  // namespace
}  // namespace diffulex_edge
