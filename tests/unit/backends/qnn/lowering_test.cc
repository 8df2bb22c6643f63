#include "backends/qnn/lowering.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <set>

#include "support/expect_error.h"
#include "support/lowered_onnx.h"
#include "support/reference_decoder.h"
#include "support/tiny_model.h"

namespace diffulex_edge::qnn {
namespace {

using testing::expect_error;
using testing::Lowered;
using testing::OnnxNode;
using testing::OnnxTensor;
using testing::OnnxValue;
using testing::ReadOnnx;
using Sizes = std::vector<std::int64_t>;

constexpr std::int64_t kLength = 12;
constexpr float kHeadroom = 1.25F;
const LoweringSettings kFloats = {};
const LoweringSettings kHalves = {.arithmetic = OnnxDtype::kFloat16};
constexpr std::array kFamilies = {"llada", "dream", "sdar", "fast_dllm_v2", "llama", "qwen2", "qwen3"};

bool is_float(std::int64_t dtype) { return dtype == testing::kOnnxFloat || dtype == testing::kOnnxFloat16; }

// Another range for each value, with 0 in it.
ActivationRange range_of(ValueId value) {
  const auto number = static_cast<float>(value);
  return {.min = -1.0F - number / 16.0F, .max = 2.0F + number / 8.0F};
}

GraphActivations ranges_of(const Graph& graph) {
  GraphActivations result;
  for (ValueId value = 0; value < static_cast<ValueId>(graph.nodes().size()); ++value) {
    result.values.push_back(range_of(value));
    if (graph.node(value).op == Op::kAttention) {
      result.scores[value] = {.min = -3.0F - static_cast<float>(value), .max = 5.0F};
    }
  }
  return result;
}

ActivationRange widened(const ActivationRange& range, int bits) {
  return bits > 8 ? ActivationRange{.min = range.min * kHeadroom, .max = range.max * kHeadroom} : range;
}

class QnnLowering : public ::testing::Test {
 protected:
  Model model(const std::string& family, std::int64_t length = kLength, bool tied = false) const {
    const auto decoder = testing::reference_decoder(family, tied);
    testing::write_model(folder_ / family, decoder.config, decoder.tensors());
    return load_model(folder_ / family,
                      {.seq_len = length, .block_length = {}, .mask_token_id = {}, .ignored_config_keys = {}});
  }
  static QuantizationConfig weights(QuantizationDtype dtype, bool whole = false) {
    QuantizationConfig config{.dtype = dtype};
    if (whole) {
      config.embedding_dtype = QuantizationDtype::INT8;
      config.head_dtype = dtype;
    }
    return config;
  }
  static QuantizationConfig in_mode_static(QuantizationConfig config) {
    config.mode = QuantizationMode::STATIC;
    return config;
  }
  static CalibrationFindings findings_of(const Model& model) {
    return {.layers = {}, .graph = ranges_of(model.graph), .input_importance = {}};
  }
  Lowered lower_static(const std::string& family, int bits,
                       const QuantizationConfig& config = {.dtype = QuantizationDtype::INT8},
                       std::int64_t length = kLength, bool tied = false) const {
    Model loaded = model(family, length, tied);
    const CalibrationFindings findings = findings_of(loaded);
    return {std::move(loaded), in_mode_static(config), kFloats, findings, bits};
  }
  Lowered lower_floats(const std::string& family, const QuantizationConfig& config,
                       const LoweringSettings& settings = kFloats, std::int64_t length = kLength) const {
    return {model(family, length), config, settings};
  }
  // For every family and both widths; each format of weights comes twice.
  void for_each_static(const std::function<void(const Lowered&, int bits)>& check) const {
    QuantizationConfig channels = weights(QuantizationDtype::INT4);
    channels.group_size = 0;
    const std::vector<QuantizationConfig> formats = {
        weights(QuantizationDtype::INT8), weights(QuantizationDtype::INT8, true), weights(QuantizationDtype::INT4),
        weights(QuantizationDtype::INT4, true), channels};
    std::size_t next = 0;
    for (const int bits : {8, 16}) {
      for (const std::string family : kFamilies) {
        SCOPED_TRACE(family + ", " + std::to_string(bits));
        check(lower_static(family, bits, formats[next++ % formats.size()]), bits);
      }
    }
  }
  void expect_no_ranges(const std::function<void(GraphActivations&)>& spoil, const std::string& part) const {
    Model loaded = model("sdar");
    const QuantizationConfig config = in_mode_static(weights(QuantizationDtype::INT8));
    CalibrationFindings findings = findings_of(loaded);
    spoil(*findings.graph);
    expect_error(ErrorCode::kInvalidArgument, {"mode static", part},
                 [&] { const Lowered lowered(std::move(loaded), config, kFloats, findings); });
  }
  testing::TemporaryFolder folder_;
};

TEST_F(QnnLowering, TakesTokensAndGivesLogits) {
  for (const std::string family : kFamilies) {
    const Lowered lowered = lower_floats(family, {});
    EXPECT_EQ(lowered.onnx.inputs,
              (decltype(ReadOnnx::inputs){{"input_ids", {.dtype = testing::kOnnxInt32, .sizes = {1, kLength}}}}));
    EXPECT_EQ(lowered.onnx.outputs,
              (decltype(ReadOnnx::outputs){{"logits", {.dtype = testing::kOnnxFloat, .sizes = {1, kLength, 37}}}}));
    EXPECT_TRUE(lowered.result->models.at(0)->encodings.empty());
  }
}

TEST_F(QnnLowering, PassesEveryValueThroughIntegersInModeStatic) {
  for_each_static([](const Lowered& lowered, int bits) {
    const ReadOnnx& onnx = lowered.onnx;
    const bool float_head = onnx.at("logits").op == "Reshape";
    EXPECT_EQ(float_head, !lowered.plan
                               .at("lm_head", lowered.model.graph.tensor(
                                                  lowered.model.graph.node(lowered.model.graph.output()).inputs[1]))
                               .format.is_quantized());
    std::map<std::string, Encoding> found;
    for (const OnnxNode& node : onnx.nodes) {
      const bool is_last = float_head && (node.output == "lm_head" || node.output == "logits");
      // The scales of an INT8 embedding's rows.
      const bool is_scale = node.op == "Gather" && onnx.values.at(node.inputs[0]).sizes[1] == 1;
      if (!is_float(onnx.values.at(node.output).dtype) || node.op == "DequantizeLinear" || is_last || is_scale) {
        continue;
      }
      const OnnxNode* quantizer = lowered.quantizer(node.output);
      ASSERT_NE(quantizer, nullptr) << node.output;
      const OnnxTensor& zero = onnx.tensors.at(quantizer->inputs[2]);
      if (zero.dtype == testing::kOnnxInt8) {
        EXPECT_EQ(node.op, "Gather");
        continue;
      }
      EXPECT_EQ(zero.dtype, bits == 8 ? testing::kOnnxUint8 : testing::kOnnxUint16);
      EXPECT_EQ(onnx.values.at(quantizer->output).dtype, zero.dtype);
      found.emplace(node.output, lowered.encoding_of(*quantizer));
    }
    EXPECT_EQ(found, lowered.result->models.at(0)->encodings);
    EXPECT_GT(found.size(), 40U);
  });
}

TEST_F(QnnLowering, ReadsNothingButIntegersInModeStatic) {
  for_each_static([](const Lowered& lowered, int) {
    const ReadOnnx& onnx = lowered.onnx;
    const std::set<std::string> kNoArithmetic = {"QuantizeLinear", "DequantizeLinear", "Gather"};
    for (const OnnxNode& node : onnx.nodes) {
      for (std::size_t i = 0; i < node.inputs.size() && !kNoArithmetic.contains(node.op); ++i) {
        const OnnxNode* maker = onnx.maker(node.inputs[i]);
        const bool is_row_scale = node.op == "Mul" && maker != nullptr && maker->op == "Gather";
        const bool is_float_head = (node.output == "lm_head" && i == 1) || node.output == "logits";
        if (is_float(onnx.values.at(node.inputs[i]).dtype) && !is_row_scale && !is_float_head) {
          EXPECT_TRUE(maker != nullptr && maker->op == "DequantizeLinear")
              << node.output << " reads " << node.inputs[i];
        }
      }
    }
  });
}

TEST_F(QnnLowering, KnowsTheRangesOfSharesInAdvance) {
  for_each_static([](const Lowered& lowered, int bits) {
    const Encoding unit{.bits = bits, .scale = 1.0F / (std::ldexp(1.0F, bits) - 1.0F), .zero_point = 0};
    for (const char* op : {"Softmax", "Sigmoid"}) {
      const auto nodes = lowered.onnx.of_op(op);
      EXPECT_EQ(nodes.size(), 2U);
      for (const OnnxNode* node : nodes) {
        EXPECT_EQ(lowered.encoding_after(node->output), unit) << node->output;
      }
    }
  });
}

TEST_F(QnnLowering, GivesHeadroomToSixteenBitsAndNoneToEight) {
  for (const int bits : {8, 16}) {
    const Lowered lowered = lower_static("sdar", bits);
    const Graph& graph = lowered.model.graph;
    for (ValueId value = 0; value < static_cast<ValueId>(graph.nodes().size()); ++value) {
      const Node& node = graph.node(value);
      if ((node.op == Op::kLinear && value != graph.output()) || node.op == Op::kRmsNorm || node.op == Op::kEmbedding) {
        EXPECT_EQ(lowered.encoding_after(node.name), choose_encoding(widened(range_of(value), bits), bits))
            << node.name;
      }
    }
  }
}

TEST_F(QnnLowering, UsesTheRangeOfEveryValueThatWasObserved) {
  for_each_static([](const Lowered& lowered, int bits) {
    std::set<Encoding> used;
    for (const auto& [name, encoding] : lowered.result->models.at(0)->encodings) {
      used.insert(encoding);
    }
    const Graph& graph = lowered.model.graph;
    const std::set<Op> computed = {Op::kEmbedding, Op::kLinear, Op::kRmsNorm, Op::kRope,
                                   Op::kAttention, Op::kSwiGlu, Op::kAdd};
    const bool float_head = lowered.onnx.at("logits").op == "Reshape";
    for (ValueId value = 0; value < static_cast<ValueId>(graph.nodes().size()); ++value) {
      const Node& node = graph.node(value);
      if (computed.contains(node.op) && !(float_head && value == graph.output())) {
        EXPECT_TRUE(used.contains(choose_encoding(widened(range_of(value), bits), bits)))
            << to_string(node.op) << " " << value;
      }
      if (node.op == Op::kAttention) {
        const ActivationRange scores{.min = -3.0F - static_cast<float>(value), .max = 5.0F};
        EXPECT_TRUE(used.contains(choose_encoding(widened(scores, bits), bits)));
      }
    }
  });
}

TEST_F(QnnLowering, LeavesRoomForABiasThatIsYetToBeAdded) {
  const Lowered lowered = lower_static("qwen2", 16);
  const Graph& graph = lowered.model.graph;
  for (ValueId value = 0; value < static_cast<ValueId>(graph.nodes().size()); ++value) {
    const Node& node = graph.node(value);
    if (node.op != Op::kLinear || node.inputs.size() != 3) {
      continue;
    }
    const std::vector<double> bias = lowered.constant(node.name + ".bias");
    const auto [least, most] = std::ranges::minmax(bias);
    const ActivationRange after = widened(range_of(value), 16);
    const Encoding before = lowered.encoding_after(node.name);
    const double scale = before.scale;
    EXPECT_NEAR(-before.zero_point * scale, after.min - most, 1e-3);
    EXPECT_NEAR((65535 - before.zero_point) * scale, after.max - least, 1e-3);
    const OnnxNode* dequantized = lowered.onnx.readers(lowered.quantizer(node.name)->output)[0];
    const OnnxNode* sum = lowered.onnx.readers(dequantized->output).at(0);
    EXPECT_EQ(sum->op, "Add");
    EXPECT_EQ(lowered.encoding_after(sum->output), choose_encoding(after, 16));
  }
}

TEST_F(QnnLowering, KeepsTheEncodingOfValuesThatOnlyMove) {
  for_each_static([](const Lowered& lowered, int) {
    int moved = 0;
    for (const OnnxNode& node : lowered.onnx.nodes) {
      if (node.op != "Reshape" && node.op != "Transpose" && node.op != "Slice" && node.op != "Concat") {
        continue;
      }
      const OnnxNode* source = lowered.onnx.maker(node.inputs[0]);
      if (source != nullptr && source->op == "DequantizeLinear" && lowered.quantizer(node.output) != nullptr) {
        EXPECT_EQ(lowered.encoding_after(node.output), lowered.encoding_of(*source)) << node.output;
        ++moved;
      }
    }
    EXPECT_GT(moved, 10);
  });
}

TEST_F(QnnLowering, NeedsTheRangesOfAllValues) {
  Model loaded = model("sdar");
  const QuantizationConfig config = in_mode_static(weights(QuantizationDtype::INT8));
  expect_error(ErrorCode::kInvalidArgument, {"mode static", "ranges of all activations", "--calibration"},
               [&] { const Lowered lowered(std::move(loaded), config, kFloats); });
  expect_no_ranges([](GraphActivations& ranges) { ranges.values.pop_back(); }, "ranges of all activations");
  expect_no_ranges([](GraphActivations& ranges) { ranges.values.emplace_back(); }, "ranges of all activations");
  expect_no_ranges([](GraphActivations& ranges) { ranges.scores.erase(ranges.scores.begin()); }, "scores");
}

TEST_F(QnnLowering, RefusesRangesThatAreNone) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const ActivationRange bad : {ActivationRange{.min = kNan, .max = 1.0F},
                                    {.min = -1.0F, .max = kNan},
                                    {.min = -kInfinity, .max = 1.0F},
                                    {.min = 0.0F, .max = kInfinity},
                                    {.min = -2.0F, .max = -1.0F},
                                    {.min = 1.0F, .max = 2.0F}}) {
    expect_no_ranges([&](GraphActivations& ranges) { ranges.values[ranges.values.size() / 2] = bad; },
                     "not a range with 0");
    expect_no_ranges([&](GraphActivations& ranges) { ranges.scores.begin()->second = bad; }, "not a range with 0");
  }
}

TEST_F(QnnLowering, HasNoIntegersInFloatingPointButThoseOfAnEmbedding) {
  for (const std::string family : kFamilies) {
    for (const auto& [config, settings] : {std::pair(weights(QuantizationDtype::FP32), kFloats),
                                           {weights(QuantizationDtype::FP16), kFloats},
                                           {weights(QuantizationDtype::FP16), kHalves},
                                           {weights(QuantizationDtype::INT8), kFloats},
                                           {weights(QuantizationDtype::INT4), kFloats}}) {
      const Lowered lowered = lower_floats(family, config, settings);
      EXPECT_TRUE(lowered.onnx.of_op("QuantizeLinear").empty());
      EXPECT_TRUE(lowered.onnx.of_op("DequantizeLinear").empty());
      const bool has_integers = config.dtype == QuantizationDtype::INT8 || config.dtype == QuantizationDtype::INT4;
      EXPECT_EQ(lowered.onnx.of_op("MatMulNBits").size(), has_integers ? 14U : 0U);
      EXPECT_EQ(lowered.onnx.opsets.size(), has_integers ? 2U : 1U);
    }
    const Lowered lowered = lower_floats(family, weights(QuantizationDtype::INT8, true));
    const auto quantizers = lowered.onnx.of_op("QuantizeLinear");
    ASSERT_EQ(quantizers.size(), 1U);
    EXPECT_EQ(lowered.onnx.at(quantizers[0]->inputs[0]).op, "Gather");
    // Unsigned, as MatMulNBits reads those of a head that is the same tensor.
    EXPECT_EQ(lowered.onnx.tensors.at(quantizers[0]->inputs[2]).dtype, testing::kOnnxUint8);
    EXPECT_EQ(lowered.onnx.of_op("DequantizeLinear").size(), 2U);
  }
}

TEST_F(QnnLowering, ComputesInHalvesWhereToldTo) {
  const Lowered lowered = lower_floats("sdar", weights(QuantizationDtype::FP16), kHalves);
  for (const auto& [name, value] : lowered.onnx.values) {
    EXPECT_TRUE(value.dtype != testing::kOnnxFloat || lowered.onnx.at("logits").output == name ||
                (lowered.onnx.maker(name) != nullptr && lowered.onnx.at(name).op == "Cast"))
        << name;
  }
}

TEST_F(QnnLowering, DescribesBlocksOfIntegersToTheirOperator) {
  for (const QuantizationDtype dtype : {QuantizationDtype::INT8, QuantizationDtype::INT4}) {
    const Lowered lowered = lower_floats("sdar", weights(dtype));
    const OnnxNode& node = lowered.onnx.at("layers.1.down_proj");  // [96, 160]
    const bool is_int4 = dtype == QuantizationDtype::INT4;
    EXPECT_EQ(node.domain, "com.microsoft");
    EXPECT_EQ(node.attributes.at("K").integer, 160);
    EXPECT_EQ(node.attributes.at("N").integer, 96);
    EXPECT_EQ(node.attributes.at("bits").integer, is_int4 ? 4 : 8);
    EXPECT_EQ(node.attributes.at("block_size").integer, 32);  // the largest power of two in 160, and the group
    EXPECT_EQ(lowered.onnx.values.at(node.inputs[1]).sizes, (Sizes{96, 5, is_int4 ? 16 : 32}));
    EXPECT_EQ(lowered.onnx.values.at(node.inputs[2]).sizes, (Sizes{96, 5}));
    EXPECT_EQ(lowered.onnx.values.at(node.inputs[0]).sizes, (Sizes{1, kLength, 160}));
  }
}

TEST_F(QnnLowering, DescribesIntegersInModeStatic) {
  for (const std::int64_t group : {0, 32}) {
    QuantizationConfig config = weights(QuantizationDtype::INT4);
    config.group_size = group;
    const Lowered lowered = lower_static("sdar", 16, config);
    EXPECT_EQ(lowered.result->has_blocks, group != 0);
    const OnnxNode& gemm = lowered.onnx.at("layers.1.down_proj");
    EXPECT_EQ(gemm.op, "Gemm");
    EXPECT_EQ(gemm.attributes.at("transB").integer, 1);
    const OnnxNode& weight = lowered.onnx.at(gemm.inputs[1]);
    const Sizes scales = group == 0 ? Sizes{96} : Sizes{96, 5};
    EXPECT_EQ(lowered.onnx.values.at(weight.inputs[0]), (OnnxValue{.dtype = testing::kOnnxInt4, .sizes = {96, 160}}));
    EXPECT_EQ(lowered.onnx.values.at(weight.inputs[1]), (OnnxValue{.dtype = testing::kOnnxFloat, .sizes = scales}));
    EXPECT_EQ(lowered.onnx.values.at(weight.inputs[2]), (OnnxValue{.dtype = testing::kOnnxInt4, .sizes = scales}));
    EXPECT_EQ(weight.attributes.at("axis").integer, group == 0 ? 0 : 1);
    EXPECT_EQ(weight.attributes.contains("block_size"), group != 0);
    const std::string zeros = lowered.bytes(weight.inputs[2]);
    EXPECT_EQ(zeros, std::string(zeros.size(), '\0'));
  }
}

TEST_F(QnnLowering, ReadsATiedInt8MatrixByTwoTensorsOfTheSameBytes) {
  const Lowered lowered = lower_static("sdar", 16, weights(QuantizationDtype::INT8, true), kLength, true);
  const ReadOnnx& onnx = lowered.onnx;
  const auto gathers = onnx.of_op("Gather");
  const auto gather = std::ranges::find_if(
      gathers, [&](const OnnxNode* node) { return onnx.values.at(node->inputs[0]).sizes == Sizes{37, 96}; });
  ASSERT_NE(gather, gathers.end());
  const std::string rows = onnx.at((*gather)->inputs[0]).inputs[0];
  const std::string head = onnx.at(onnx.at("lm_head").inputs[1]).inputs[0];
  EXPECT_NE(rows, head);
  EXPECT_EQ(onnx.tensors.at(rows).dtype, testing::kOnnxInt8);
  EXPECT_EQ(onnx.tensors.at(rows).offset, onnx.tensors.at(head).offset);
  EXPECT_EQ(lowered.bytes(rows), lowered.bytes(head));
  EXPECT_EQ(onnx.readers(rows).size(), 1U);
  EXPECT_EQ(onnx.readers(head).size(), 1U);
  std::int64_t stored = 0;
  for (const StoredLayer& layer : lowered.result->layers) {
    stored += layer.plan.layer == "embedding" || layer.plan.layer == "lm_head" ? layer.stored_bytes : 0;
  }
  EXPECT_EQ(stored, 37 * 96 + 37 * 4);
}

TEST_F(QnnLowering, SharesATiedMatrixOfFloats) {
  const Lowered lowered{model("sdar", kLength, true), {}, kFloats};
  EXPECT_EQ(lowered.onnx.of_op("Gather").at(0)->inputs[0], lowered.onnx.at("lm_head").inputs[1]);
}

TEST_F(QnnLowering, NormalizesInTwoDimensions) {
  const auto check = [](const Lowered& lowered) {
    std::size_t norms = 0;
    for (const Node& node : lowered.model.graph.nodes()) {
      if (node.op != Op::kRmsNorm) {
        continue;
      }
      ++norms;
      const OnnxNode& norm = lowered.onnx.at(node.name);
      EXPECT_EQ(norm.op, "RMSNormalization");
      EXPECT_EQ(lowered.onnx.values.at(norm.inputs[0]).sizes.size(), 2U) << node.name;
      EXPECT_EQ(lowered.onnx.values.at(norm.inputs[1]).sizes.size(), 1U) << node.name;
      EXPECT_EQ(norm.attributes.at("axis").integer, -1);
      EXPECT_EQ(norm.attributes.at("epsilon").number, std::get<RmsNormAttributes>(node.attributes).epsilon);
    }
    EXPECT_EQ(lowered.onnx.of_op("RMSNormalization").size(), norms);
  };
  for (const std::string family : kFamilies) {
    check(lower_floats(family, {}));
    check(lower_floats(family, {}, kHalves));
    check(lower_static(family, 16));
  }
}

// The tensors that some Add puts on scores, and where.
std::vector<const OnnxNode*> mask_adders(const ReadOnnx& onnx) {
  std::vector<const OnnxNode*> result;
  for (const OnnxNode* add : onnx.of_op("Add")) {
    if (onnx.values.at(add->inputs[1]).sizes == Sizes{1, 1, kLength, kLength}) {
      result.push_back(add);
    }
  }
  return result;
}

TEST_F(QnnLowering, HidesExactlyLaterBlocksInFloatingPoint) {
  for (const auto& [family, block] : {std::pair("sdar", 5), {"fast_dllm_v2", 5}, {"llama", 1}, {"qwen3", 1}}) {
    for (const LoweringSettings& settings : {kFloats, kHalves}) {
      const Lowered lowered = lower_floats(family, {}, settings);
      const auto adders = mask_adders(lowered.onnx);
      ASSERT_EQ(adders.size(), 2U);
      for (const OnnxNode* add : adders) {
        const std::vector<double> mask = lowered.constant(add->inputs[1]);
        for (std::size_t i = 0; i < mask.size(); ++i) {
          const auto query = static_cast<std::int64_t>(i) / kLength;
          const auto key = static_cast<std::int64_t>(i) % kLength;
          if (key / block > query / block) {
            EXPECT_LE(mask[i], -9e3) << query << ", " << key;
            EXPECT_GE(mask[i], -65504.0);
          } else {
            EXPECT_EQ(mask[i], 0.0) << query << ", " << key;
          }
        }
      }
    }
  }
}

TEST_F(QnnLowering, HidesExactlyLaterBlocksInIntegers) {
  for (const auto& [family, block] : {std::pair("sdar", 5), {"qwen3", 1}}) {
    for (const int bits : {8, 16}) {
      const Lowered lowered = lower_static(family, bits);
      const double distance = bits == 8 ? 8.0 : 16.0;
      std::vector<ActivationRange> scores;
      for (const auto& [value, range] : lowered.plan.findings.graph->scores) {
        scores.push_back(widened(range, bits));
      }
      const auto adders = mask_adders(lowered.onnx);
      ASSERT_EQ(adders.size(), scores.size());
      for (std::size_t layer = 0; layer < adders.size(); ++layer) {
        const Encoding sum = lowered.encoding_after(adders[layer]->output);
        const double step = static_cast<double>(sum.scale);
        EXPECT_NEAR(-sum.zero_point * step, scores[layer].min - distance, step);
        const std::vector<double> mask = lowered.constant(adders[layer]->inputs[1]);
        const double mask_step =
            static_cast<double>(lowered.encoding_of(*lowered.onnx.maker(adders[layer]->inputs[1])).scale);
        for (std::size_t i = 0; i < mask.size(); ++i) {
          const auto query = static_cast<std::int64_t>(i) / kLength;
          const auto key = static_cast<std::int64_t>(i) % kLength;
          if (key / block > query / block) {
            // Even the greatest score falls to the bottom.
            EXPECT_LE(scores[layer].max + mask[i], scores[layer].min - distance + mask_step) << query << ", " << key;
          } else {
            EXPECT_EQ(mask[i], 0.0) << query << ", " << key;
          }
        }
      }
    }
  }
}

TEST_F(QnnLowering, HasNoMaskWhereNothingIsHidden) {
  for (const char* family : {"llada", "dream"}) {
    EXPECT_TRUE(mask_adders(lower_floats(family, {}).onnx).empty()) << family;
    EXPECT_TRUE(mask_adders(lower_static(family, 16).onnx).empty()) << family;
  }
  // A block as long as the sequence, and one token less.
  const auto masks = [&](std::int64_t length) {
    const Lowered lowered = lower_floats("sdar", {}, kFloats, length);
    const auto adds = lowered.onnx.of_op("Add");
    return std::ranges::count_if(adds, [&](const OnnxNode* add) {
      return lowered.onnx.values.at(add->inputs[1]).sizes == Sizes{1, 1, length, length};
    });
  };
  EXPECT_EQ(masks(4), 0);
  EXPECT_EQ(masks(5), 0);
  EXPECT_EQ(masks(6), 2);
}

TEST_F(QnnLowering, MakesAModelForEachStepSizeOfTheSameWeights) {
  const LoweringSettings steps = {.cache = CacheSettings{.tokens = kLength, .block_sizes = {2, 5}}};
  const Lowered whole = lower_floats("sdar", {});
  const Lowered lowered = lower_floats("sdar", {}, steps);
  ASSERT_EQ(lowered.result->models.size(), 2U);
  EXPECT_EQ(lowered.result->layers.size(), whole.result->layers.size());
  const auto sizes_of = [](const OnnxGraph& graph, OnnxGraph::Id value) { return graph.type(value).sizes; };
  for (std::size_t i = 0; i < 2; ++i) {
    const OnnxModel& model = *lowered.result->models[i];
    const std::int64_t tokens = steps.cache->block_sizes[i];
    EXPECT_EQ(model.stem, "model_b" + std::to_string(tokens));
    EXPECT_EQ(model.step_tokens, tokens);
    std::map<std::string, Sizes> inputs;
    for (const OnnxGraph::Id input : model.graph.inputs()) {
      inputs[model.graph.name(input)] = sizes_of(model.graph, input);
    }
    EXPECT_EQ(inputs.size(), 3 + model.caches.size());
    EXPECT_EQ(inputs.at("input_ids"), (Sizes{1, tokens}));
    EXPECT_EQ(inputs.at("positions"), (Sizes{1, tokens}));
    EXPECT_EQ(inputs.at("attention_mask"), (Sizes{1, 1, tokens, kLength + tokens}));
    EXPECT_EQ(model.graph.name(model.graph.outputs().at(0)), "logits");
    ASSERT_EQ(model.caches.size(), 4U);
    for (const CacheTensors& cache : model.caches) {
      const Sizes fresh = sizes_of(model.graph, cache.fresh);
      const Sizes past = sizes_of(model.graph, cache.past);
      EXPECT_EQ(fresh.at(1), tokens);
      EXPECT_EQ(past.at(static_cast<std::size_t>(cache.token_axis)), kLength);
      EXPECT_EQ(past.at(1), fresh.at(2));
      EXPECT_EQ(past.at(cache.token_axis == 3 ? 2 : 3), fresh.at(3));
    }
  }
  ASSERT_TRUE(lowered.result->mask.has_value());
  EXPECT_EQ(lowered.result->mask->hidden, -1e4);
  EXPECT_EQ(lowered.result->mask->visible, 0.0);
}

TEST_F(QnnLowering, KeepsKeysAndValuesInOneEncoding) {
  for (const int bits : {8, 16}) {
    for (const bool in_8_bits : {false, true}) {
      Model loaded = model("dream");
      const CalibrationFindings findings = findings_of(loaded);
      const LoweringSettings steps = {.cache =
                                          CacheSettings{.tokens = kLength, .block_sizes = {3}, .in_8_bits = in_8_bits}};
      const Lowered lowered(std::move(loaded), in_mode_static({.dtype = QuantizationDtype::INT8}), steps, findings,
                            bits);
      const OnnxModel& only = *lowered.result->models.front();
      ASSERT_EQ(only.caches.size(), 4U);
      for (const CacheTensors& cache : only.caches) {
        const Encoding encoding = only.integers.at(cache.past);
        EXPECT_EQ(encoding.bits, in_8_bits ? 8 : bits);
        EXPECT_EQ(only.integers.at(cache.fresh), encoding);
        for (const OnnxGraph::Id tensor : {cache.past, cache.fresh}) {
          const auto readers = lowered.onnx.readers(only.graph.name(tensor));
          ASSERT_EQ(readers.size(), 1U);
          EXPECT_EQ(lowered.encoding_of(*readers[0]), encoding);
        }
      }
      // What is hidden falls to the bottom of every layer's scores.
      const Encoding mask = only.integers.at(only.graph.inputs().at(2));
      EXPECT_EQ(lowered.result->mask->visible, mask.zero_point);
      const double hides = (lowered.result->mask->hidden - mask.zero_point) * static_cast<double>(mask.scale);
      for (const auto& [value, range] : lowered.plan.findings.graph->scores) {
        const ActivationRange scores = widened(range, bits);
        EXPECT_LE(scores.max + hides, scores.min - (bits == 8 ? 8.0 : 16.0) + static_cast<double>(mask.scale));
      }
    }
  }
}

TEST_F(QnnLowering, SaysWhatBecameOfModeDynamic) {
  QuantizationConfig config = weights(QuantizationDtype::INT8);
  EXPECT_FALSE(lower_floats("sdar", config).result->dynamic_as_weight_only);
  config.mode = QuantizationMode::DYNAMIC;
  EXPECT_TRUE(lower_floats("sdar", config).result->dynamic_as_weight_only);
}

TEST(QnnEncoding, CoversItsRangeAndHoldsZeroExactly) {
  std::mt19937 generator(1);
  std::uniform_real_distribution<float> exponent(-30.0F, 30.0F);
  std::uniform_int_distribution<int> shape(0, 3);
  for (int i = 0; i < 20000; ++i) {
    ActivationRange range{.min = -std::exp2(exponent(generator)), .max = std::exp2(exponent(generator))};
    const int kind = shape(generator);
    range.min = kind == 0 ? 0.0F : range.min;
    range.max = kind == 1 ? 0.0F : range.max;
    for (const int bits : {8, 16}) {
      const Encoding encoding = choose_encoding(range, bits);
      const double steps = std::ldexp(1.0, bits) - 1.0;
      const double scale = encoding.scale;
      ASSERT_EQ(encoding.bits, bits);
      ASSERT_GT(scale, 0.0);
      ASSERT_GE(encoding.zero_point, 0);  // 0 is one of the integers
      ASSERT_LE(encoding.zero_point, steps);
      // The ends are moved by no more than half a step, to let 0 in.
      ASSERT_NEAR(-encoding.zero_point * scale, range.min, 0.51 * scale) << range.min << ", " << range.max;
      ASSERT_NEAR((steps - encoding.zero_point) * scale, range.max, 0.51 * scale) << range.min << ", " << range.max;
    }
  }
}

TEST(QnnEncoding, HoldsNothingButZero) {
  for (const int bits : {8, 16}) {
    const Encoding encoding = choose_encoding({}, bits);
    EXPECT_TRUE(std::isnormal(encoding.scale));
    EXPECT_GE(encoding.zero_point, 0);
    EXPECT_LT(encoding.zero_point, 1 << bits);
  }
}

}  // namespace
}  // namespace diffulex_edge::qnn
