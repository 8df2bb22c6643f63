#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>

#include "core/sha256.h"
#include "diffulex_edge/inspection.h"
#include "diffulex_edge/model_hash.h"
#include "diffulex_edge/qnn_backend.h"
#include "quant/arithmetic.h"
#include "support/expect_error.h"
#include "support/file_tree.h"
#include "support/onnx_reader.h"
#include "support/processes.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;
using testing::bytes_in;
using testing::read_tree;
using testing::Tree;
using Json = nlohmann::json;
using Options = std::map<std::string, std::string>;

std::vector<std::string> names_in(const Tree& tree) {
  std::vector<std::string> names;
  for (const auto& [path, content] : tree) {
    names.push_back(path);
  }
  return names;
}

QuantizationConfig with(QuantizationConfig config, const std::function<void(QuantizationConfig&)>& change) {
  change(config);
  return config;
}

QuantizationConfig whole(QuantizationDtype dtype, QuantizationMode mode = QuantizationMode::WEIGHT_ONLY) {
  return {.dtype = dtype, .mode = mode, .embedding_dtype = QuantizationDtype::INT8, .head_dtype = dtype};
}

QuantizationConfig in_mode_static(QuantizationDtype dtype) {
  return {.dtype = dtype, .mode = QuantizationMode::STATIC};
}

bool is_everywhere(const QNNBackend& backend) {
  return is_static_everywhere(backend.quantization(), backend.arithmetic());
}

class QnnExports : public ::testing::Test {
 protected:
  QnnExports() { testing::write_sdar(folder_ / "model"); }

  Model model(std::int64_t seq_len = 24) const {
    return load_model(folder_ / "model",
                      {.seq_len = seq_len, .block_length = {}, .mask_token_id = {}, .ignored_config_keys = {}});
  }
  static BackendConfig config(const QuantizationConfig& quantization, Options named = {},
                              std::optional<ActivationDtype> activations = {}) {
    BackendConfig config;
    config.quant_config = quantization;
    config.backend_options = std::move(named);
    config.activation_dtype = activations;
    return config;
  }
  // As calibration would find them.
  CalibrationFindings findings() const {
    GraphActivations ranges;
    const Model loaded = model();
    for (std::size_t i = 0; i < loaded.graph.nodes().size(); ++i) {
      ranges.values.push_back({.min = -9.0F, .max = 7.0F + static_cast<float>(i)});
      if (loaded.graph.nodes()[i].op == Op::kAttention) {
        ranges.scores[static_cast<ValueId>(i)] = {.min = -4.0F, .max = 6.0F};
      }
    }
    return {.layers = {}, .graph = ranges, .input_importance = {}};
  }
  ExportResult run(const BackendConfig& config, const std::string& name = "out",
                   const RunControl& control = {.threads = 2}) const {
    return QNNBackend(config).export_model(model(), folder_ / name, control, findings());
  }
  Tree exported(const BackendConfig& config, const std::string& name = "out",
                const RunControl& control = {.threads = 2}) const {
    const ExportResult result = run(config, name, control);
    EXPECT_TRUE(result.success) << result.error_message;
    return result.success ? read_tree(folder_ / name) : Tree();
  }
  void expect_refused(const BackendConfig& config, ErrorCode code, const std::string& sentence) const {
    const ExportResult result = run(config);
    EXPECT_FALSE(result.success) << "taken, and not: " << sentence;
    EXPECT_EQ(result.error_code, code) << result.error_message;
    EXPECT_EQ(result.error_message, sentence);
    EXPECT_EQ(entries(), std::vector<std::string>{"model"});
  }
  std::vector<std::string> entries() const { return testing::entries_of(folder_.path()); }
  testing::TemporaryFolder folder_;
};

struct Case {
  std::string name;
  QuantizationConfig quantization;
  std::optional<ActivationDtype> activations;
};

std::vector<Case> all_cases() {
  using enum QuantizationDtype;
  const auto channels = [](QuantizationConfig& config) { config.group_size = 0; };
  std::vector<Case> cases = {{"fp32", {.dtype = FP32}},
                             {"fp16", {.dtype = FP16}},
                             {"fp16, fp32 activations", {.dtype = FP16}, ActivationDtype::FP32},
                             {"int8", {.dtype = INT8}},
                             {"int8 whole", whole(INT8)},
                             {"int8 dynamic", {.dtype = INT8, .mode = QuantizationMode::DYNAMIC}},
                             {"int4", {.dtype = INT4}},
                             {"int4 whole", whole(INT4)},
                             {"int4 channels", with({.dtype = INT4}, channels)}};
  for (const QuantizationDtype dtype : {INT8, INT4}) {
    cases.push_back({"static", in_mode_static(dtype)});
    cases.push_back({"static whole", whole(dtype, QuantizationMode::STATIC)});
    cases.push_back({"static channels", with(in_mode_static(dtype), channels)});
    cases.push_back({"static, 8 bits", in_mode_static(dtype), ActivationDtype::INT8});
  }
  return cases;
}

TEST_F(QnnExports, AreAsLargeAsTheDryRunSays) {
  for (const Case& one : all_cases()) {
    SCOPED_TRACE(one.name);
    const BackendConfig wanted = config(one.quantization, {}, one.activations);
    QNNBackend backend(wanted);
    const ExportResult predicted = backend.dry_run(model(), findings());
    ASSERT_TRUE(predicted.success) << predicted.error_message;
    EXPECT_TRUE(predicted.metadata.dry_run);
    EXPECT_FALSE(fs::exists(folder_ / "out"));
    const ExportResult result = run(wanted);
    ASSERT_TRUE(result.success) << result.error_message;
    EXPECT_FALSE(result.metadata.dry_run);
    const Tree tree = read_tree(folder_ / "out");
    EXPECT_EQ(predicted.metadata.file_bytes, bytes_in(tree));
    EXPECT_EQ(result.metadata.file_bytes, bytes_in(tree));
    const bool is_static = is_everywhere(backend);
    EXPECT_EQ(names_in(tree),
              is_static ? (std::vector<std::string>{"encodings.json", "manifest.json", "model.onnx", "model.onnx.data"})
                        : (std::vector<std::string>{"manifest.json", "model.onnx", "model.onnx.data"}));
    std::int64_t stored = 0;
    for (const StoredLayer& layer : result.metadata.layers) {
      stored += layer.stored_bytes;
    }
    EXPECT_LE(stored, bytes_in(tree));
    fs::remove_all(folder_ / "out");
  }
}

TEST_F(QnnExports, DoNotDependOnThreads) {
  for (const Case& one : all_cases()) {
    SCOPED_TRACE(one.name);
    const BackendConfig wanted = config(one.quantization, {}, one.activations);
    const Tree first = exported(wanted, "one", {.threads = 1});
    EXPECT_TRUE(first == exported(wanted, "four", {.threads = 4}));
  }
}

TEST_F(QnnExports, HoldAModelWhoseDataIsAllThere) {
  for (const Case& one : all_cases()) {
    SCOPED_TRACE(one.name);
    const Tree tree = exported(config(one.quantization, {}, one.activations));
    const testing::ReadOnnx onnx = testing::read_onnx(tree.at("model.onnx"));
    std::int64_t end = 0;
    for (const auto& [name, tensor] : onnx.tensors) {
      EXPECT_TRUE(tensor.location.empty() || tensor.location == "model.onnx.data") << name;
      end = std::max(end, tensor.offset + tensor.length);
    }
    EXPECT_EQ(end, static_cast<std::int64_t>(tree.at("model.onnx.data").size()));
    const Json manifest = Json::parse(tree.at("manifest.json"));
    EXPECT_EQ(manifest.at("models").at(0).at("sha256"), sha256_hex(std::as_bytes(std::span(tree.at("model.onnx")))));
    EXPECT_EQ(manifest.at("data").at("bytes"), tree.at("model.onnx.data").size());
    EXPECT_EQ(manifest.at("source_sha256"), hash_model(model(), {}).sha256);
    EXPECT_EQ(manifest.at("models").at(0).contains("encodings"), tree.contains("encodings.json"));
    const std::map<std::string, std::string> notes(onnx.metadata.begin(), onnx.metadata.end());
    for (const auto& [key, value] : notes) {
      EXPECT_EQ(manifest.at(key), value) << key;
    }
    EXPECT_EQ(notes.size(), 4U);
  }
}

TEST_F(QnnExports, AreInspectedWithoutACrashWhateverTheirBytes) {
  const Tree tree = exported(config({.dtype = QuantizationDtype::INT8}));
  std::mt19937 generator(1);
  for (const std::string name : {"model.onnx", "manifest.json"}) {
    const std::string& whole = tree.at(name);
    for (int i = 0; i < 1000; ++i) {
      std::string damaged = whole;
      const std::size_t at = generator() % whole.size();
      if (i % 5 == 0) {
        damaged.resize(at);
      } else {
        damaged[at] = static_cast<char>(generator());
      }
      testing::write_file(folder_ / "out" / name, damaged);
      try {
        for (const InspectedTensor& tensor : inspect(folder_ / "out", {.hashes = false}).tensors) {
          EXPECT_GE(tensor.offset, 0) << tensor.name;
          EXPECT_LE(tensor.offset + tensor.bytes,
                    static_cast<std::int64_t>(fs::file_size(folder_ / "out" / tensor.file)))
              << tensor.name << " in " << tensor.file;
        }
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kBadFile) << error.what();
      }
    }
    testing::write_file(folder_ / "out" / name, whole);
  }
}

TEST_F(QnnExports, DescribeTheEncodingsOfValuesInTheModel) {
  const Tree tree = exported(config(in_mode_static(QuantizationDtype::INT8)));
  const testing::ReadOnnx onnx = testing::read_onnx(tree.at("model.onnx"));
  const Json encodings = Json::parse(tree.at("encodings.json"));
  EXPECT_GT(encodings.at("activation_encodings").size(), 40U);
  for (const auto& [name, unused] : encodings.at("activation_encodings").items()) {
    EXPECT_NE(onnx.maker(name), nullptr) << name;
  }
}

TEST_F(QnnExports, TakeIntegerActivationsForModeStatic) {
  for (const auto& [activations, bits] : {std::pair(ActivationDtype::INT8, 8), {ActivationDtype::INT16, 16}}) {
    const QNNBackend backend(config({.dtype = QuantizationDtype::INT8}, {}, activations));
    EXPECT_EQ(backend.quantization().mode, QuantizationMode::STATIC);
    EXPECT_EQ(backend.config().quant_config.mode, QuantizationMode::WEIGHT_ONLY);  // what was asked for stays
    EXPECT_EQ(backend.arithmetic().static_bits, bits);
    EXPECT_TRUE(is_everywhere(backend));
    const ExportResult result = run(config({.dtype = QuantizationDtype::INT8}, {}, activations));
    EXPECT_EQ(result.metadata.activation_dtype, "int" + std::to_string(bits)) << result.error_message;
  }
  const QNNBackend backend(config(in_mode_static(QuantizationDtype::INT8)));
  EXPECT_EQ(backend.arithmetic().static_bits, 16);  // the default
  EXPECT_TRUE(is_everywhere(backend));
}

TEST_F(QnnExports, HaveNoIntegersWithoutIntegerWeights) {
  using enum QuantizationDtype;
  for (const QuantizationDtype dtype : {FP32, FP16}) {
    const QNNBackend backend(config(in_mode_static(dtype)));
    EXPECT_FALSE(is_everywhere(backend));
  }
  const auto mixed = [](const LayerFormat& format) {
    return with(in_mode_static(FP32), [&](QuantizationConfig& config) {
      config.layer_formats = {{"layers.0.q_proj", {.dtype = FP16}}, {"layers.0.k_proj", format}};
    });
  };
  EXPECT_FALSE(is_everywhere(QNNBackend(config(mixed({.dtype = FP32})))));
  EXPECT_TRUE(is_everywhere(QNNBackend(config(mixed({.dtype = INT8})))));
  EXPECT_FALSE(is_everywhere(QNNBackend(config({.dtype = INT8}))));
}

TEST_F(QnnExports, NameTheirActivations) {
  using enum QuantizationDtype;
  EXPECT_EQ(run(config({.dtype = FP32})).metadata.activation_dtype, "fp32");
  EXPECT_EQ(run(config({.dtype = FP16})).metadata.activation_dtype, "fp16");
  EXPECT_EQ(run(config({.dtype = FP16}, {}, ActivationDtype::FP32)).metadata.activation_dtype, "fp32");
  EXPECT_EQ(run(config({.dtype = INT8})).metadata.activation_dtype, "fp32");
  EXPECT_EQ(run(config(in_mode_static(INT8))).metadata.activation_dtype, "int16");
}

TEST_F(QnnExports, WarnOfModeDynamic) {
  const auto warns = [&](QuantizationMode mode) {
    const ExportResult result = run(config({.dtype = QuantizationDtype::INT8, .mode = mode}));
    return std::ranges::any_of(result.metadata.warnings, [](const std::string& warning) {
      return warning.find("mode dynamic") != std::string::npos;
    });
  };
  EXPECT_TRUE(warns(QuantizationMode::DYNAMIC));
  EXPECT_FALSE(warns(QuantizationMode::WEIGHT_ONLY));
  EXPECT_FALSE(warns(QuantizationMode::STATIC));
}

TEST_F(QnnExports, LeaveNothingWhereTheNamedPythonHasNoCompiler) {
  const std::string python = testing::write_program(folder_ / "python", "echo '{\"error\": \"No module\"}'; exit 1");
  const BackendConfig wanted = config({.dtype = QuantizationDtype::FP16}, {{"soc", "SM8550"}, {"qnn_python", python}});
  const ExportResult result = run(wanted);
  EXPECT_EQ(result.error_code, ErrorCode::kUnsupported) << result.error_message;
  EXPECT_EQ(entries(), (std::vector<std::string>{"model", "python"}));
}

TEST_F(QnnExports, HoldWhatTheCompilerMade) {
  const std::string python = testing::write_program(
      folder_ / "python",
      "if [ $3 = probe ]; then echo '{\"onnxruntime\": \"1\", \"onnxruntime_qnn\": \"2\", \"qairt\": \"3\"}'; exit; "
      "fi\n"
      "d=$(dirname \"$5\"); printf binary$6 > $d/model_ctx_qnn.bin; printf context > $d/model_ctx.onnx\n"
      "echo '{\"graph_name\": \"g\", \"binary\": \"model_ctx_qnn.bin\", \"seconds\": 1.5, \"peak_rss_bytes\": 7}'");
  const BackendConfig wanted =
      config({.dtype = QuantizationDtype::FP16}, {{"soc", "sm8550,SM8650"}, {"qnn_python", python}});
  const ExportResult result = run(wanted);
  ASSERT_TRUE(result.success) << result.error_message;
  const Tree tree = read_tree(folder_ / "out");
  EXPECT_EQ(result.metadata.file_bytes, bytes_in(tree));
  EXPECT_EQ(tree.at("SM8550/model_ctx_qnn.bin"), "binary43");
  EXPECT_EQ(tree.at("SM8650/model_ctx_qnn.bin"), "binary57");
  const Json contexts = Json::parse(tree.at("manifest.json")).at("contexts");
  ASSERT_EQ(contexts.size(), 2U);
  EXPECT_EQ(contexts[0].at("soc"), "SM8550");
  EXPECT_EQ(contexts[1].at("sha256"), sha256_hex(std::as_bytes(std::span(tree.at("SM8650/model_ctx_qnn.bin")))));
}

// --- Targets.

TEST_F(QnnExports, ReplaceAnOlderExport) {
  exported(config(in_mode_static(QuantizationDtype::INT8)));
  testing::write_file(folder_ / "out/stale", "of an older version");
  const Tree fresh = exported(config({.dtype = QuantizationDtype::INT4}));
  EXPECT_EQ(names_in(fresh), (std::vector<std::string>{"manifest.json", "model.onnx", "model.onnx.data"}));
  EXPECT_EQ(entries(), (std::vector<std::string>{"model", "out"}));
  fs::create_directory(folder_ / "empty");
  EXPECT_TRUE(exported(config({.dtype = QuantizationDtype::INT4}), "empty") == fresh);
}

TEST_F(QnnExports, LeaveForeignFoldersAlone) {
  fs::create_directory(folder_ / "out");
  testing::write_file(folder_ / "out/photo", "kept");
  const std::string sentence = (folder_ / "out").string() + ": exists and is not an empty folder (name another folder)";
  for (const char* manifest : {"", "{}", "[]", "no JSON", R"({"format": "other"})"}) {
    testing::write_file(folder_ / "out/manifest.json", manifest);
    const ExportResult result = run(config({.dtype = QuantizationDtype::INT8}));
    EXPECT_EQ(result.error_code, ErrorCode::kIo) << manifest;
    EXPECT_EQ(result.error_message, sentence);
    EXPECT_EQ(read_tree(folder_ / "out"), (Tree{{"manifest.json", manifest}, {"photo", "kept"}}));
    EXPECT_EQ(entries(), (std::vector<std::string>{"model", "out"}));
  }
  EXPECT_EQ(run(config({.dtype = QuantizationDtype::INT8}), "model").error_code, ErrorCode::kIo);
  EXPECT_NO_THROW(model());
}

TEST_F(QnnExports, LeaveNothingWhereAWeightIsBroken) {
  std::vector<testing::TestTensor> tensors = testing::qwen3_tensors(true);
  tensors.back().bytes.replace(0, 4, "\xFF\xFF\xFF\x7F");  // NaN
  testing::write_model(folder_ / "model", testing::transformers_config("sdar", "SDARForCausalLM"), tensors);
  for (const QuantizationMode mode : {QuantizationMode::WEIGHT_ONLY, QuantizationMode::STATIC}) {
    const ExportResult result = run(config(whole(QuantizationDtype::INT8, mode)));
    EXPECT_EQ(result.error_code, ErrorCode::kBadFile);
    EXPECT_NE(result.error_message.find("lm_head.weight"), std::string::npos) << result.error_message;
    EXPECT_EQ(entries(), std::vector<std::string>{"model"});
  }
}

TEST_F(QnnExports, LeaveNothingWhereANormIsBroken) {
  std::vector<testing::TestTensor> tensors = testing::qwen3_tensors(true);
  tensors.at(1).bytes.replace(0, 4, "\xFF\xFF\xFF\x7F");
  const std::string name = tensors.at(1).name;
  testing::write_model(folder_ / "model", testing::transformers_config("sdar", "SDARForCausalLM"), tensors);
  for (const QuantizationMode mode : {QuantizationMode::WEIGHT_ONLY, QuantizationMode::STATIC}) {
    const ExportResult result = run(config({.dtype = QuantizationDtype::INT8, .mode = mode}));
    EXPECT_EQ(result.error_code, ErrorCode::kBadFile);
    EXPECT_NE(result.error_message.find(name), std::string::npos) << result.error_message;
    EXPECT_EQ(entries(), std::vector<std::string>{"model"});
  }
}

TEST_F(QnnExports, LeaveNothingWhereTheyAreCancelled) {
  const Tree old = exported(config({.dtype = QuantizationDtype::INT4}), "old");
  for (const char* name : {"old", "out"}) {
    std::stop_source later;
    RunControl control{.threads = 1, .stop = later.get_token()};
    control.on_progress = [&](const Progress& progress) {
      if (progress.stage == "weights") {
        later.request_stop();
      }
    };
    const ExportResult result = run(config({.dtype = QuantizationDtype::INT8}), name, control);
    EXPECT_EQ(result.error_code, ErrorCode::kCancelled) << result.error_message;
    EXPECT_EQ(entries(), (std::vector<std::string>{"model", "old"}));
  }
  EXPECT_TRUE(read_tree(folder_ / "old") == old);
}

// --- Refusals.

TEST_F(QnnExports, RefuseSeveralLengths) {
  for (const char* lengths : {"8,24", "8..24"}) {
    BackendConfig wanted = config({.dtype = QuantizationDtype::INT8});
    wanted.input_lengths = parse_input_lengths(lengths);
    expect_refused(wanted, ErrorCode::kUnsupported,
                   std::string("sequence length: QNN compiles for one length, not for ") + lengths +
                       " (export once for each length)");
  }
  BackendConfig wanted = config({.dtype = QuantizationDtype::INT8});
  wanted.input_lengths = parse_input_lengths("16");
  expect_refused(wanted, ErrorCode::kInvalidArgument, "sequence length: the input has 16 tokens, the model 24");
  wanted.input_lengths = parse_input_lengths("24");
  EXPECT_TRUE(run(wanted).success);
}

TEST_F(QnnExports, RefuseHalvesWithIntegerWeights) {
  for (const QuantizationDtype dtype : {QuantizationDtype::INT8, QuantizationDtype::INT4}) {
    const BackendConfig wanted = config({.dtype = dtype}, {}, ActivationDtype::FP16);
    expect_refused(wanted, ErrorCode::kUnsupported,
                   "activation dtype fp16: is not available with integer weights: their scales are float32 (leave it "
                   "out: the NPU computes floating point in FP16 in any case)");
    testing::expect_error(ErrorCode::kUnsupported, {"activation dtype fp16"},
                          [&] { QNNBackend(wanted).check_config(); });
  }
}

TEST_F(QnnExports, RefuseFloatingPointInModeStatic) {
  for (const auto& [activations, name] : {std::pair(ActivationDtype::FP32, "fp32"), {ActivationDtype::FP16, "fp16"}}) {
    const BackendConfig wanted = config(in_mode_static(QuantizationDtype::INT8), {}, activations);
    expect_refused(wanted, ErrorCode::kInvalidArgument,
                   std::string("activation dtype ") + name +
                       ": is not mode static, in which QNN computes in integers (leave it out, or use --mode "
                       "weight_only)");
    testing::expect_error(ErrorCode::kInvalidArgument, {"mode static"}, [&] { QNNBackend(wanted).check_config(); });
  }
}

TEST_F(QnnExports, RefuseIntegerActivationsWithoutIntegerWeights) {
  expect_refused(config({.dtype = QuantizationDtype::FP16}, {}, ActivationDtype::INT16), ErrorCode::kUnsupported,
                 "activation dtype int16: QNN takes it with INT8 and INT4 weights only (use --dtype int8)");
  expect_refused(
      config({.dtype = QuantizationDtype::INT8, .mode = QuantizationMode::DYNAMIC}, {}, ActivationDtype::INT8),
      ErrorCode::kInvalidArgument,
      "activation dtype int8: is mode static, not dynamic (leave it out: mode dynamic computes in floating "
      "point on the NPU)");
}

TEST_F(QnnExports, RefuseInt4Embeddings) {
  const auto embedding = [](QuantizationConfig& config) { config.embedding_dtype = QuantizationDtype::INT4; };
  for (const QuantizationMode mode : {QuantizationMode::WEIGHT_ONLY, QuantizationMode::STATIC}) {
    expect_refused(config(with({.dtype = QuantizationDtype::INT4, .mode = mode}, embedding)), ErrorCode::kUnsupported,
                   "embedding: INT4 embeddings are not available with QNN (use --embedding-dtype int8 or fp16)");
  }
}

TEST_F(QnnExports, RefuseUnknownOptions) {
  expect_refused(config({.dtype = QuantizationDtype::INT8}, {{"target", "SM8550"}}), ErrorCode::kInvalidArgument,
                 "backend option 'target': is not known to the QNN backend");
  expect_refused(config({.dtype = QuantizationDtype::INT8}, {{"soc", "SM8550,sm8550"}}), ErrorCode::kInvalidArgument,
                 "soc: 'SM8550' is named twice");
  for (const char* socs : {"", "SM1", "SM8550,", "SM8550 ,SM8650"}) {
    const BackendConfig wanted = config({.dtype = QuantizationDtype::INT8}, {{"soc", socs}});
    EXPECT_EQ(run(wanted).error_code, ErrorCode::kInvalidArgument) << socs;
    testing::expect_error(ErrorCode::kInvalidArgument, {"soc", "SM8850"}, [&] { QNNBackend(wanted).check_config(); });
  }
}

TEST_F(QnnExports, RefuseGroupsWhereASocTakesNone) {
  for (const char* socs : {"SM8350", "SM8550,SA8295"}) {
    const BackendConfig groups = config(in_mode_static(QuantizationDtype::INT4), {{"soc", socs}});
    const std::string culprit = std::string(socs) == "SM8350" ? "SM8350" : "SA8295";
    expect_refused(groups, ErrorCode::kUnsupported,
                   culprit + ": its NPU takes no INT4 weights in groups (use --group-size 0)");
    BackendConfig channels = groups;
    channels.quant_config.group_size = 0;
    EXPECT_TRUE(QNNBackend(channels).dry_run(model(), findings()).success);
    const BackendConfig newer = config(in_mode_static(QuantizationDtype::INT4), {{"soc", "SM8450"}});
    EXPECT_TRUE(QNNBackend(newer).dry_run(model(), findings()).success);
  }
}

TEST_F(QnnExports, NeedRangesInModeStatic) {
  const ExportResult result =
      QNNBackend(config(in_mode_static(QuantizationDtype::INT8))).export_model(model(), folder_ / "out");
  EXPECT_EQ(result.error_code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(result.error_message,
            "mode static: needs the ranges of all activations (give calibration data (--calibration FILE))");
}

}  // namespace
}  // namespace diffulex_edge
