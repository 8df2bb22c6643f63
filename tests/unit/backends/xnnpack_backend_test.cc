#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <random>

#include "diffulex_edge/inspection.h"
#include "diffulex_edge/xnnpack_backend.h"
#include "support/expect_error.h"
#include "support/reference_decoder.h"
#include "support/static_ranges.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

class XnnpackBackend : public ::testing::Test {
 protected:
  ExportResult run(const QuantizationConfig& quantization, bool tied = false, int threads = 0,
                   std::optional<ActivationDtype> activation = {}) {
    testing::write_sdar(folder_ / "model", tied);
    BackendConfig config{.quant_config = quantization, .activation_dtype = activation, .backend_options = {}};
    XNNPACKBackend backend(config);
    const Model model = load_model(folder_ / "model");
    ExportResult result = backend.export_model(model, folder_ / "x.pte", {.threads = threads}, findings_);
    if (result.success) {
      EXPECT_EQ(result.metadata.file_bytes, static_cast<std::int64_t>(std::filesystem::file_size(folder_ / "x.pte")));
      EXPECT_EQ(backend.dry_run(model, findings_).metadata.file_bytes, result.metadata.file_bytes);
    }
    return result;
  }
  // Whatever is done to a file, inspecting it ends in an answer or in one error: run under ASan and UBSan.
  void expect_survives(const std::string& whole) {
    const auto survives = [&](const std::string& bytes) {
      testing::write_file(folder_ / "damaged.pte", bytes);
      try {
        for (const InspectedTensor& tensor : inspect(folder_ / "damaged.pte").tensors) {
          EXPECT_GE(tensor.offset, 0) << tensor.name;
          EXPECT_LE(tensor.offset + tensor.bytes, static_cast<std::int64_t>(bytes.size())) << tensor.name;
        }
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kBadFile) << error.what();
      }
    };
    std::mt19937 generator(1);
    for (int i = 0; i < 200; ++i) {
      survives(whole.substr(0, generator() % whole.size()));
    }
    for (int i = 0; i < 600; ++i) {
      std::string flipped = whole;
      // The program at the front and the delegate's payload at the end are what is parsed.
      const std::size_t range = std::min<std::size_t>(whole.size(), 24'000);
      const std::size_t at = i % 2 == 0 ? generator() % range : whole.size() - 1 - generator() % range;
      flipped[at] = static_cast<char>(generator());
      survives(flipped);
    }
  }
  testing::TemporaryFolder folder_;
  CalibrationFindings findings_ = testing::wide_findings();
};

const QuantizationConfig kFormats[] = {
    {.dtype = QuantizationDtype::FP32},
    {.dtype = QuantizationDtype::FP16},
    {.dtype = QuantizationDtype::INT8},
    {.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::DYNAMIC},
    {.dtype = QuantizationDtype::INT4},
    {.dtype = QuantizationDtype::INT4, .group_size = 0},
    {.dtype = QuantizationDtype::INT4,
     .embedding_dtype = QuantizationDtype::INT4,
     .head_dtype = QuantizationDtype::INT4},
    {.dtype = QuantizationDtype::INT8,
     .embedding_dtype = QuantizationDtype::INT8,
     .head_dtype = QuantizationDtype::INT8},
    {.dtype = QuantizationDtype::INT8,
     .mode = QuantizationMode::STATIC,
     .embedding_dtype = QuantizationDtype::INT8,
     .head_dtype = QuantizationDtype::INT8},
    {.dtype = QuantizationDtype::INT4, .mode = QuantizationMode::STATIC, .group_size = 0},
};

TEST_F(XnnpackBackend, PredictsSizesAndMakesOneDelegateCall) {
  for (const QuantizationConfig& format : kFormats) {
    for (const bool tied : {false, true}) {
      const ExportResult result = run(format, tied);
      ASSERT_TRUE(result.success) << result.error_message;
      const Inspection inspection = inspect(folder_ / "x.pte");
      ASSERT_EQ(inspection.methods.size(), 1U);
      EXPECT_EQ(inspection.methods[0].delegates.size(), 1U);
      const auto& operators = inspection.methods[0].operators;
      // A quantized look-up comes with one that checks the ids.
      const auto quantized = std::ranges::count_if(
          operators, [](const std::string& name) { return name.starts_with("quantized_decomposed::"); });
      EXPECT_EQ(operators.size(), static_cast<std::size_t>(3 + quantized));
      EXPECT_EQ(inspection.methods[0].operators, result.metadata.operators_outside_delegate);
    }
  }
}

TEST_F(XnnpackBackend, WritesTheSameBytesWithAnyNumberOfThreads) {
  for (const QuantizationConfig& format : kFormats) {
    run(format, false, 1);
    const std::string one = testing::read_file(folder_ / "x.pte");
    run(format, false, 3);
    EXPECT_EQ(testing::read_file(folder_ / "x.pte"), one);
  }
}

TEST_F(XnnpackBackend, StoresTiedWeightsOnceWhereTheLayoutsAgree) {
  constexpr std::int64_t kTable = 50 * 64;
  const auto size = [&](QuantizationDtype dtype, bool tied) {
    return run({.dtype = QuantizationDtype::INT8, .embedding_dtype = dtype, .head_dtype = dtype}, tied)
        .metadata.file_bytes;
  };
  const auto saved = [&](QuantizationDtype dtype) { return size(dtype, false) - size(dtype, true); };
  constexpr std::int64_t kNames = 64;  // names of tensors have different lengths
  EXPECT_GE(saved(QuantizationDtype::FP32), 4 * kTable - kNames);
  EXPECT_GE(saved(QuantizationDtype::FP16), 2 * kTable - kNames);
  EXPECT_GE(saved(QuantizationDtype::INT8), kTable - kNames);
  EXPECT_LT(saved(QuantizationDtype::INT4), kTable / 4);  // nibble orders differ: stored twice
}

TEST_F(XnnpackBackend, ReturnsFailuresAndLeavesTheTargetAlone) {
  testing::write_file(folder_ / "x.pte", "old");
  findings_ = {};
  const ExportResult result = run({.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::STATIC});
  EXPECT_FALSE(result.success);
  EXPECT_EQ(result.error_code, ErrorCode::kInvalidArgument);
  EXPECT_NE(result.error_message.find("--calibration"), std::string::npos);
  EXPECT_EQ(testing::read_file(folder_ / "x.pte"), "old");
  EXPECT_EQ(run({.dtype = QuantizationDtype::INT8}, false, 0, ActivationDtype::FP16).error_code,
            ErrorCode::kUnsupported);
  EXPECT_EQ(run({}, false, 0, ActivationDtype::INT8).error_code, ErrorCode::kUnsupported);
}

TEST_F(XnnpackBackend, TakesInt8ActivationsForModeStatic) {
  QuantizationConfig config = {.dtype = QuantizationDtype::INT8};
  const XNNPACKBackend backend({.quant_config = config, .activation_dtype = ActivationDtype::INT8});
  EXPECT_EQ(backend.quantization().mode, QuantizationMode::STATIC);
  EXPECT_EQ(backend.config().quant_config.mode, QuantizationMode::WEIGHT_ONLY);  // what was asked for stays
  const ExportResult result = run(config, false, 0, ActivationDtype::INT8);
  ASSERT_TRUE(result.success) << result.error_message;
  EXPECT_EQ(result.metadata.activation_dtype, "int8");
  const std::string bytes = testing::read_file(folder_ / "x.pte");
  config.mode = QuantizationMode::STATIC;
  ASSERT_TRUE(run(config).success);
  EXPECT_TRUE(testing::read_file(folder_ / "x.pte") == bytes);
  config.mode = QuantizationMode::DYNAMIC;
  EXPECT_EQ(run(config, false, 0, ActivationDtype::INT8).error_code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(run(config, false, 0, ActivationDtype::INT16).error_code, ErrorCode::kUnsupported);
}

TEST_F(XnnpackBackend, NamesTheKernelAndTheFormatOfStaticLayers) {
  const testing::ReferenceDecoder dream = testing::reference_decoder("dream");
  testing::write_model(folder_ / "model", dream.config, dream.tensors());
  const Model model = load_model(folder_ / "model");
  XNNPACKBackend backend({.quant_config = {.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::STATIC},
                          .activation_dtype = {},
                          .backend_options = {}});
  const ExportResult result = backend.dry_run(model, testing::wide_findings());
  ASSERT_TRUE(result.success) << result.error_message;
  int biases = 0;
  for (const StoredLayer& layer : result.metadata.layers) {
    if (layer.plan.role == LayerRole::kLinear) {
      const bool head = layer.plan.layer == "lm_head";
      EXPECT_EQ(layer.kernel, head ? "f32 x f32" : "qs8 x qc8w");
      EXPECT_EQ(layer.plan.activations.has_value(), !head);
      EXPECT_EQ(to_string(layer.plan.arithmetic), head ? "fp32" : "static int8");
    } else if (layer.plan.role == LayerRole::kBias) {
      EXPECT_EQ(to_string(layer.plan.format), "i32 per channel, f32 scales");
      EXPECT_EQ(layer.stored_bytes, 8 * layer.plan.columns);
      ++biases;
    }
  }
  EXPECT_EQ(biases, 6);
}

// A scale that the runtime would refuse is found when the weights are streamed; nothing is written then.
TEST_F(XnnpackBackend, RefusesStaticRangesThatDoNotBelongToTheWeights) {
  findings_.layers.at("layers.1.o_proj") = {.input = {.min = -1e6F, .max = 1e6F},
                                            .output = {.min = 0.0F, .max = 1e-3F}};
  const ExportResult result = run({.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::STATIC});
  EXPECT_EQ(result.error_code, ErrorCode::kUnsupported);
  EXPECT_NE(result.error_message.find("layers.1.o_proj"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "x.pte"));
}

TEST_F(XnnpackBackend, RefusesToWriteOverTheModel) {
  testing::write_sdar(folder_ / "model");
  const Model model = load_model(folder_ / "model");
  for (const char* name : {"model/model.safetensors", "model/config.json"}) {
    const ExportResult result = XNNPACKBackend().export_model(model, folder_ / name);
    EXPECT_EQ(result.error_code, ErrorCode::kInvalidArgument) << name;
  }
  EXPECT_NO_THROW(load_model(folder_ / "model"));
}

TEST_F(XnnpackBackend, InspectionSurvivesDamagedFiles) {
  run({.dtype = QuantizationDtype::INT4, .embedding_dtype = QuantizationDtype::INT8});
  expect_survives(testing::read_file(folder_ / "x.pte"));
}

TEST_F(XnnpackBackend, InspectionSurvivesDamagedFilesWithStaticActivations) {
  run({.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::STATIC});
  expect_survives(testing::read_file(folder_ / "x.pte"));
}

TEST(BackendRegistry, KnowsItsBackends) {
  BackendRegistry& registry = BackendRegistry::instance();
  EXPECT_EQ(registry.create("xnnpack", {})->name(), "xnnpack");
  testing::expect_error(ErrorCode::kUnsupported, {"'nope'", "xnnpack"}, [&] { registry.create("nope", {}); });
  testing::expect_error(ErrorCode::kInvalidArgument, {"registered already"}, [&] {
    registry.register_backend("xnnpack", [](BackendConfig) { return std::unique_ptr<EdgeBackend>(); });
  });
}

TEST(BackendRegistry, RefusesANullFactory) {
  EXPECT_THROW(BackendRegistry::instance().register_backend("null-factory", nullptr), Error);
}

TEST_F(XnnpackBackend, InspectionRefusesAHugeFileWithAProgramsMark) {  // aborts where asserts are on
  const auto path = folder_ / "huge";
  const int file = ::open(path.c_str(), O_CREAT | O_RDWR, 0600);
  ASSERT_EQ(::pwrite(file, "\x08\0\0\0ET12", 8, 0), 8);
  ASSERT_EQ(::ftruncate(file, std::int64_t{3} << 30U), 0);
  ::close(file);
  EXPECT_THROW(inspect(path, {.hashes = false}), Error);
}

TEST_F(XnnpackBackend, InspectionShowsForeignPackedWeights) {  // the layout of NVFP4 checkpoints
  testing::write_file(folder_ / "nv.safetensors",
                      testing::safetensors_file({{"w", DType::kU8, {4, 32}, std::string(128, 'a')},
                                                 {"w_scale", DType::kF8E4M3, {4, 4}, std::string(16, 'a')}}));
  EXPECT_NO_THROW(inspect(folder_ / "nv.safetensors"));
}

}  // namespace
}  // namespace diffulex_edge
