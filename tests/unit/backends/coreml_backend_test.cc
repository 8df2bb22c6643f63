#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "backends/coreml/description.h"
#include "diffulex_edge/coreml_backend.h"
#include "diffulex_edge/inspection.h"
#include "diffulex_edge/model_hash.h"
#include "support/coreml_payload.h"
#include "support/expect_error.h"
#include "support/file_tree.h"
#include "support/mil_reader.h"
#include "support/reference_decoder.h"
#include "support/static_ranges.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;
using testing::bytes_in;
using testing::Proto;
using testing::read_tree;
using testing::ReadOperation;
using testing::ReadProgram;
using testing::Tree;
using Options = std::map<std::string, std::string>;

constexpr const char* kModelFile = "Data/com.apple.CoreML/model.mlmodel";
constexpr const char* kWeightsFolder = "Data/com.apple.CoreML/weights/";

QuantizationConfig with(QuantizationConfig config, const std::function<void(QuantizationConfig&)>& change) {
  change(config);
  return config;
}

QuantizationConfig whole(QuantizationDtype dtype, QuantizationMode mode = QuantizationMode::WEIGHT_ONLY) {
  return {.dtype = dtype, .mode = mode, .embedding_dtype = dtype, .head_dtype = dtype};
}

class CoreMLExports : public ::testing::Test {
 protected:
  CoreMLExports() { testing::write_sdar(folder_ / "model"); }

  Model model(std::int64_t seq_len = 24) const { return load_model(folder_ / "model", options(seq_len)); }
  static ModelOptions options(std::int64_t seq_len) {
    return {.seq_len = seq_len, .block_length = {}, .mask_token_id = {}, .ignored_config_keys = {}};
  }
  static BackendConfig config(const QuantizationConfig& quantization, Options named = {}) {
    BackendConfig config;
    config.quant_config = quantization;
    config.backend_options = std::move(named);
    return config;
  }
  ExportResult run(const BackendConfig& config, const std::string& name = "x.mlpackage",
                   const RunControl& control = {.threads = 2}) const {
    const Model loaded = model(config.input_lengths ? config.input_lengths->longest() : 24);
    return CoreMLBackend(config).export_model(loaded, folder_ / name, control, testing::wide_findings());
  }
  ExportResult run(const QuantizationConfig& quantization, const Options& named = {},
                   const std::string& name = "x.mlpackage") const {
    return run(config(quantization, named), name);
  }
  // What a package or folder of packages holds that must have been written.
  Tree exported(const BackendConfig& config, const std::string& name = "x.mlpackage") const {
    const ExportResult result = run(config, name);
    EXPECT_TRUE(result.success) << result.error_message;
    return result.success ? read_tree(folder_ / name) : Tree();
  }
  ReadProgram program(const BackendConfig& config) const {
    return testing::read_program(Proto(exported(config).at(kModelFile)).text(502));
  }
  void expect_refused(const BackendConfig& config, ErrorCode code, const std::string& sentence,
                      const std::string& name = "x.mlpackage") const {
    const ExportResult result = run(config, name);
    EXPECT_FALSE(result.success) << "taken, and not: " << sentence;
    EXPECT_EQ(result.error_code, code) << result.error_message;
    EXPECT_EQ(result.error_message, sentence);
    EXPECT_FALSE(fs::exists(folder_ / name));
  }
  std::vector<std::string> entries() const { return testing::entries_of(folder_.path()); }
  testing::TemporaryFolder folder_;
};

struct Case {
  std::string name;
  QuantizationConfig quantization;
  Options options = {};
  const char* lengths = nullptr;
  std::optional<ActivationDtype> activation = {};
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  const QuantizationConfig int8 = whole(QuantizationDtype::INT8);
  const QuantizationConfig int4 = whole(QuantizationDtype::INT4);
  const QuantizationConfig int8_static = whole(QuantizationDtype::INT8, QuantizationMode::STATIC);
  const QuantizationConfig int4_channels = with(int4, [](QuantizationConfig& config) { config.group_size = 0; });
  const std::pair<const char*, QuantizationConfig> kFormats[] = {
      {"fp32", {.dtype = QuantizationDtype::FP32}},
      {"fp16", {.dtype = QuantizationDtype::FP16}},
      {"int8", {.dtype = QuantizationDtype::INT8}},
      {"int8 whole", int8},
      {"int8 dynamic", whole(QuantizationDtype::INT8, QuantizationMode::DYNAMIC)},
      {"int8 static", int8_static},
      {"int4", {.dtype = QuantizationDtype::INT4}},
      {"int4 whole", int4},
      {"int4 channels", int4_channels}};
  for (const auto& [name, quantization] : kFormats) {
    cases.push_back({name, quantization});
    cases.push_back({std::string(name) + " pte", quantization, {{"container", "pte"}}});
    cases.push_back({std::string(name) + " range", quantization, {}, "8..24"});
    cases.push_back({std::string(name) + " chunks", quantization, {{"chunk_size", "150000"}}});
    cases.push_back({std::string(name) + " fp32 activations", quantization, {}, nullptr, ActivationDtype::FP32});
  }
  for (const char* target : {"iOS16", "iOS17", "macOS15"}) {
    cases.push_back({"int8 " + std::string(target), int8, {{"minimum_deployment_target", target}}});
    cases.push_back(
        {"palette " + std::string(target), int4, {{"palette", "true"}, {"minimum_deployment_target", target}}});
  }
  cases.push_back({"palette groups", int4, {{"palette", "true"}, {"palette_group", "2"}}});
  cases.push_back({"palette pte", int4, {{"palette", "true"}, {"container", "pte"}}});
  cases.push_back({"palette fp32", int4, {{"palette", "true"}}, nullptr, ActivationDtype::FP32});
  cases.push_back({"enumerated", int8, {{"compute_unit", "cpu_and_ne"}}, "8,16,24"});
  cases.push_back({"enumerated pte", int8, {{"container", "pte"}}, "8,16,24"});
  cases.push_back({"int8 activations",
                   with(int8, [](QuantizationConfig& config) { config.exclude_layers.clear(); }),
                   {{"minimum_deployment_target", "iOS17"}},
                   nullptr,
                   ActivationDtype::INT8});
  cases.push_back({"packages", int4, {{"chunk_size", "30000"}, {"chunks", "packages"}}});
  cases.push_back({"packages range", int4, {{"chunk_size", "30000"}, {"chunks", "packages"}}, "2..24"});
  return cases;
}

BackendConfig config_of(const Case& c) {
  BackendConfig config;
  config.quant_config = c.quantization;
  config.backend_options = c.options;
  config.activation_dtype = c.activation;
  if (c.lengths != nullptr) {
    config.input_lengths = parse_input_lengths(c.lengths);
  }
  return config;
}

TEST_F(CoreMLExports, ArePredictedToTheByte) {
  int index = 0;
  for (const Case& c : all_cases()) {
    SCOPED_TRACE(c.name);
    const BackendConfig config = config_of(c);
    const bool as_pte = c.options.contains("container");
    const std::string name = std::to_string(index++) + (as_pte ? ".pte" : ".mlpackage");
    const ExportResult result = run(config, name);
    ASSERT_TRUE(result.success) << result.error_message;
    const auto bytes =
        as_pte ? static_cast<std::int64_t>(fs::file_size(folder_ / name)) : bytes_in(read_tree(folder_ / name));
    EXPECT_EQ(result.metadata.file_bytes, bytes);
    const ExportResult dry = CoreMLBackend(config).dry_run(model(), testing::wide_findings());
    ASSERT_TRUE(dry.success) << dry.error_message;
    EXPECT_TRUE(dry.metadata.dry_run);
    EXPECT_EQ(dry.metadata.file_bytes, bytes);
    EXPECT_EQ(dry.metadata.quantized_memory_mb, result.metadata.quantized_memory_mb);
    EXPECT_EQ(dry.metadata.layers.size(), result.metadata.layers.size());
    EXPECT_EQ(dry.metadata.warnings, result.metadata.warnings);
    EXPECT_EQ(result.metadata.backend, "coreml");
    EXPECT_EQ(result.metadata.method, as_pte ? "forward" : "main");
    EXPECT_EQ(result.metadata.seq_len, 24);
    std::int64_t stored = 0;
    for (const StoredLayer& layer : result.metadata.layers) {
      stored += layer.stored_bytes;
    }
    EXPECT_GT(stored, bytes / 3);
    EXPECT_LT(stored, bytes);
    EXPECT_EQ(result.metadata.quantized_memory_mb, static_cast<double>(stored) / 1e6);
  }
}

TEST_F(CoreMLExports, KeepKeysAndValues) {
  for (const std::string storage : {"state", "inputs"}) {
    SCOPED_TRACE(storage);
    const BackendConfig cached =
        config(whole(QuantizationDtype::INT8), {{"cache", "24"}, {"block_tokens", "4,8"}, {"cache_storage", storage}});
    const ExportResult result = run(cached, storage + ".mlpackage");
    ASSERT_TRUE(result.success) << result.error_message;
    EXPECT_EQ(result.metadata.file_bytes, bytes_in(read_tree(folder_ / (storage + ".mlpackage"))));
    EXPECT_EQ(result.metadata.seq_len, 8);
    ASSERT_TRUE(result.metadata.cache);
    EXPECT_EQ(result.metadata.cache->tokens, 24);
    EXPECT_EQ(result.metadata.cache->dtype, "fp16");
    const Inspection found = inspect(folder_ / (storage + ".mlpackage"));
    const InspectedFeatures& features = found.models.front().features;
    std::vector<std::string> inputs;
    for (const InspectedFeature& input : features.inputs) {
      inputs.push_back(input.name);
    }
    inputs.resize(3);
    EXPECT_EQ(inputs, (std::vector<std::string>{"input_ids", "start_pos", "token_count"}));
    const auto attentions = found.models.front().functions.front().operations.at("scaled_dot_product_attention");
    const auto caches = static_cast<std::size_t>(2 * attentions);
    EXPECT_EQ(features.states.size(), storage == "state" ? caches : 0);
    EXPECT_EQ(features.inputs.size(), storage == "state" ? 3 : 3 + caches);
    EXPECT_EQ(features.outputs.size(), storage == "state" ? 1 : 1 + caches);
  }
}

TEST_F(CoreMLExports, HaveTheSameBytesWithAnyNumberOfThreads) {
  int index = 0;
  for (const Case& c : all_cases()) {
    if (c.lengths != nullptr || c.activation) {
      continue;  // nothing else is written
    }
    SCOPED_TRACE(c.name);
    const bool as_pte = c.options.contains("container");
    std::vector<Tree> trees;
    for (const int threads : {1, 2, 3}) {
      const std::string name = std::to_string(index++) + (as_pte ? ".pte" : ".mlpackage");
      const ExportResult result = run(config_of(c), name, {.threads = threads});
      ASSERT_TRUE(result.success) << result.error_message;
      trees.push_back(as_pte ? Tree{{"", testing::read_file(folder_ / name)}} : read_tree(folder_ / name));
      fs::remove_all(folder_ / name);
    }
    EXPECT_TRUE(trees[1] == trees[0]);
    EXPECT_TRUE(trees[2] == trees[0]);
  }
}

// Every blob that a program names is in the file, with as many bytes as its type and shape ask for.
void expect_blobs(const ReadProgram& program, const std::string& weights, const std::string& file) {
  const std::map<std::int64_t, std::pair<std::uint32_t, std::int64_t>> kTypes = {
      // blob type, bits of an element
      {10, {1, 16}}, {11, {2, 32}}, {21, {4, 8}}, {25, {8, 4}}, {31, {3, 8}}, {35, {11, 4}}};
  std::set<std::int64_t> offsets;
  const auto check = [&](const testing::ReadLiteral& literal) {
    if (literal.file.empty()) {
      return;
    }
    EXPECT_EQ(literal.file, "@model_path/weights/" + file);
    const auto at = static_cast<std::size_t>(literal.offset);
    ASSERT_LE(at + 64, weights.size());
    offsets.insert(literal.offset);
    std::uint32_t head[2];
    std::uint64_t place[2];
    std::memcpy(head, weights.data() + at, sizeof(head));
    std::memcpy(place, weights.data() + at + 8, sizeof(place));
    EXPECT_EQ(head[0], 0xDEADBEEFU);
    const auto& [type, bits] = kTypes.at(literal.type.dtype);
    EXPECT_EQ(head[1], type);
    std::int64_t elements = 1;
    for (const std::int64_t size : literal.type.sizes) {
      elements *= size;
    }
    EXPECT_EQ(static_cast<std::int64_t>(place[0]), elements * bits / 8);
    EXPECT_LE(place[1] + place[0], weights.size());
  };
  for (const ReadOperation& operation : program.operations) {
    for (const auto& [name, literal] : operation.attributes) {
      check(literal);
    }
    for (const auto& [parameter, argument] : operation.inputs) {
      std::ranges::for_each(argument.values, check);
    }
  }
  std::uint32_t count = 0;
  std::memcpy(&count, weights.data(), sizeof(count));
  EXPECT_EQ(offsets.size(), count) << "a blob that nothing uses";
}

TEST_F(CoreMLExports, NameTheBlobsThatAreThere) {
  int index = 0;
  for (const Case& c : all_cases()) {
    if (c.options.contains("container") || c.options.contains("chunk_size")) {
      continue;
    }
    SCOPED_TRACE(c.name);
    const Tree tree = exported(config_of(c), std::to_string(index++) + ".mlpackage");
    ASSERT_EQ(tree.size(), 3U);
    const ReadProgram read = testing::read_program(Proto(tree.at(kModelFile)).text(502));
    EXPECT_EQ(read.inputs.at(0).first, "input_ids");
    EXPECT_EQ(read.outputs, std::vector<std::string>{"logits"});
    expect_blobs(read, tree.at(std::string(kWeightsFolder) + "weight.bin"), "weight.bin");
  }
}

TEST_F(CoreMLExports, LowerEveryFamily) {
  int index = 0;
  for (const char* family : {"llada", "dream", "sdar", "fast_dllm_v2", "llama", "qwen2", "qwen3"}) {
    const testing::ReferenceDecoder reference = testing::reference_decoder(family);
    const fs::path path = folder_ / family;
    testing::write_model(path, reference.config, reference.tensors());
    const Model loaded = load_model(path, options(24));
    for (const char* target : {"iOS16", "iOS17", "iOS18"}) {
      for (const char* lengths : {"24", "8,24", "2..24"}) {
        SCOPED_TRACE(std::string(family) + " " + target + " " + lengths);
        BackendConfig wanted = config({.dtype = QuantizationDtype::INT8}, {{"minimum_deployment_target", target}});
        wanted.input_lengths = parse_input_lengths(lengths);
        const fs::path out = folder_ / (std::to_string(index++) + ".mlpackage");
        const ExportResult result = CoreMLBackend(wanted).export_model(loaded, out, {}, testing::wide_findings());
        ASSERT_TRUE(result.success) << result.error_message;
        const ReadProgram read = testing::read_program(Proto(testing::read_file(out / kModelFile)).text(502));
        const std::int64_t length = wanted.input_lengths->kind == InputLengths::Kind::kFixed ? 24 : -1;
        EXPECT_EQ(read.inputs.at(0).second, (testing::ReadType{.dtype = 23, .sizes = {1, length}}));
        EXPECT_EQ(read.at("logits").output_type, (testing::ReadType{.dtype = 11, .sizes = {1, length, 37}}));
        EXPECT_EQ(read.of_type("linear").size(), 7U * 2U + 1U);
        const bool fused = std::string(target) == "iOS18";
        EXPECT_EQ(read.of_type("scaled_dot_product_attention").size(), fused ? 2U : 0U);
        EXPECT_EQ(read.of_type("softmax").size(), fused ? 0U : 2U);
        // Only families with blocks have a mask; it is made once.
        EXPECT_EQ(read.of_type("clip").size(), reference.block > 0 ? 1U : 0U);
        EXPECT_EQ(read.of_type("tile").size(), 4U);  // keys and values of three heads
        for (const ReadOperation& linear : read.of_type("linear")) {
          const std::string layer = linear.output;
          const bool has_bias = reference.qkv_bias &&
                                (layer.ends_with("q_proj") || layer.ends_with("k_proj") || layer.ends_with("v_proj"));
          EXPECT_EQ(linear.inputs.contains("bias"), has_bias) << layer;
        }
      }
    }
  }
}

// --- What the operations are.

const ReadOperation& weight_of(const ReadProgram& program, const std::string& layer) {
  return program.at(program.at(layer).input("weight"));
}

TEST_F(CoreMLExports, ComputeInFp16UnlessAllIsFp32) {
  const auto dtype_of = [&](const QuantizationConfig& quantization, std::optional<ActivationDtype> activation) {
    BackendConfig wanted = config(quantization);
    wanted.activation_dtype = activation;
    const ExportResult result = CoreMLBackend(wanted).dry_run(model(), testing::wide_findings());
    EXPECT_TRUE(result.success) << result.error_message;
    return result.metadata.activation_dtype;
  };
  EXPECT_EQ(dtype_of({}, {}), "fp32");
  EXPECT_EQ(dtype_of({}, ActivationDtype::FP16), "fp16");
  EXPECT_EQ(dtype_of({.dtype = QuantizationDtype::FP16}, {}), "fp16");
  EXPECT_EQ(dtype_of({.dtype = QuantizationDtype::FP16}, ActivationDtype::FP32), "fp32");
  EXPECT_EQ(dtype_of({.dtype = QuantizationDtype::INT8}, {}), "fp16");
  EXPECT_EQ(dtype_of({.dtype = QuantizationDtype::INT8}, ActivationDtype::FP32), "fp32");
}

TEST_F(CoreMLExports, MakeWeightsAsTheTargetDoes) {
  const auto operation = [&](const QuantizationConfig& quantization, const char* target, const Options& more = {}) {
    Options named = {{"minimum_deployment_target", target}};
    named.insert(more.begin(), more.end());
    const ReadProgram read = program(config(quantization, named));
    EXPECT_EQ(read.opset, target == std::string("iOS18")   ? "CoreML8"
                          : target == std::string("iOS17") ? "CoreML7"
                                                           : "CoreML6");
    return weight_of(read, "layers_0_gate_proj");
  };
  const auto sizes = [](const testing::ReadLiteral& literal) { return literal.type.sizes; };
  using Sizes = std::vector<std::int64_t>;
  const QuantizationConfig int8 = {.dtype = QuantizationDtype::INT8};
  const QuantizationConfig int4 = {.dtype = QuantizationDtype::INT4};
  for (const char* old : {"iOS16", "iOS17"}) {
    const ReadOperation affine = operation(int8, old);
    EXPECT_EQ(affine.type, "constexpr_affine_dequantize");
    EXPECT_EQ(sizes(affine.attributes.at("quantized_data")), (Sizes{96, 64}));
    EXPECT_EQ(sizes(affine.attributes.at("scale")), Sizes{96});
    EXPECT_EQ(affine.attributes.at("zero_point").bytes, std::string(1, '\0'));
    EXPECT_EQ(affine.attributes.at("axis").ints, std::vector<std::int64_t>{0});
    const ReadOperation palette = operation(int4, old, {{"palette", "true"}});
    EXPECT_EQ(palette.type, "constexpr_lut_to_dense");
    EXPECT_EQ(sizes(palette.attributes.at("indices")), Sizes{96 * 64 / 2});
    EXPECT_EQ(sizes(palette.attributes.at("lut")), Sizes{16});
    EXPECT_EQ(palette.attributes.at("shape").bytes, std::string("\x60\0\0\0\x40\0\0\0", 8));
  }
  const ReadOperation blocks = operation(int8, "iOS18");
  EXPECT_EQ(blocks.type, "constexpr_blockwise_shift_scale");
  EXPECT_EQ(sizes(blocks.inputs.at("data").values.at(0)), (Sizes{96, 64}));
  EXPECT_EQ(blocks.inputs.at("data").values.at(0).type.dtype, 21);
  EXPECT_EQ(sizes(blocks.inputs.at("scale").values.at(0)), (Sizes{96, 1}));
  const ReadOperation groups = operation(int4, "iOS18");
  EXPECT_EQ(groups.type, "constexpr_blockwise_shift_scale");
  EXPECT_EQ(groups.inputs.at("data").values.at(0).type, (testing::ReadType{.dtype = 25, .sizes = {96, 64}}));
  EXPECT_EQ(groups.inputs.at("scale").values.at(0).type, (testing::ReadType{.dtype = 10, .sizes = {96, 2}}));
  const ReadOperation tables = operation(int4, "iOS18", {{"palette", "true"}, {"palette_group", "8"}});
  EXPECT_EQ(tables.type, "constexpr_lut_to_dense");
  EXPECT_EQ(tables.inputs.at("indices").values.at(0).type, (testing::ReadType{.dtype = 35, .sizes = {96, 64}}));
  EXPECT_EQ(tables.inputs.at("lut").values.at(0).type, (testing::ReadType{.dtype = 10, .sizes = {12, 1, 16, 1}}));
  BackendConfig single = config({.dtype = QuantizationDtype::FP16});
  single.activation_dtype = ActivationDtype::FP32;
  const ReadOperation half = weight_of(program(single), "layers_0_gate_proj");
  EXPECT_EQ(half.type, "constexpr_cast");
  EXPECT_EQ(half.attributes.at("source_val").type.dtype, 10);
  EXPECT_EQ(half.attributes.at("output_dtype").strings, std::vector<std::string>{"fp32"});
  EXPECT_EQ(half.output_type.dtype, 11);
}

TEST_F(CoreMLExports, QuantizeActivationsInModeStatic) {
  const ReadProgram read = program(config(whole(QuantizationDtype::INT8, QuantizationMode::STATIC)));
  for (const ReadOperation& linear : read.of_type("linear")) {
    const ReadOperation& before = read.at(linear.input("x"));
    EXPECT_EQ(before.type, "dequantize") << linear.output;
    const ReadOperation& quantize = read.at(before.input("input"));
    EXPECT_EQ(quantize.type, "quantize");
    EXPECT_EQ(read.at(quantize.input("output_dtype")).attributes.at("val").strings, std::vector<std::string>{"int8"});
    EXPECT_EQ(quantize.output_type.dtype, 21);
    for (const char* parameter : {"scale", "zero_point"}) {
      EXPECT_EQ(quantize.input(parameter), before.input(parameter));
    }
    // [-30.5, 41] / 255, in float16: 0.2803 is the nearest; -128 + 30.5 / 0.2803 = -19.2.
    EXPECT_EQ(read.at(quantize.input("scale")).attributes.at("val").bytes, "\x7C\x34");
    EXPECT_EQ(read.at(quantize.input("zero_point")).attributes.at("val").bytes, "\xED");
    EXPECT_TRUE(std::ranges::any_of(read.of_type("quantize"), [&](const ReadOperation& after) {
      return after.input("input") == linear.output;
    })) << linear.output;
  }
  // q, k and v share their input's; gate and up too.
  EXPECT_EQ(read.of_type("quantize").size(), 2U * (4U + 7U) + 2U);
  EXPECT_EQ(read.of_type("dequantize").size(), read.of_type("quantize").size());
}

TEST_F(CoreMLExports, TakeInt8ActivationsForModeStatic) {
  BackendConfig asked = config(whole(QuantizationDtype::INT8));
  asked.activation_dtype = ActivationDtype::INT8;
  EXPECT_EQ(CoreMLBackend(asked).quantization().mode, QuantizationMode::STATIC);
  const Tree tree = exported(asked, "a.mlpackage");
  EXPECT_TRUE(exported(config(whole(QuantizationDtype::INT8, QuantizationMode::STATIC)), "b.mlpackage") == tree);
}

TEST_F(CoreMLExports, TakeTheOptionPaletteForAFormat) {
  const BackendConfig asked = config({.dtype = QuantizationDtype::INT4}, {{"palette", "true"}, {"palette_group", "8"}});
  EXPECT_EQ(CoreMLBackend(asked).quantization().dtype, QuantizationDtype::PALETTE4);
  EXPECT_EQ(CoreMLBackend(asked).quantization().palette_group, 8);
  const BackendConfig plain = config({.dtype = QuantizationDtype::PALETTE4, .palette_group = 8});
  EXPECT_TRUE(exported(asked, "a.mlpackage") == exported(plain, "b.mlpackage"));
  EXPECT_EQ(CoreMLBackend(config({.dtype = QuantizationDtype::INT4}, {{"palette", "false"}})).quantization().dtype,
            QuantizationDtype::INT4);
}

TEST_F(CoreMLExports, StoreTiedWeightsOnce) {
  testing::write_sdar(folder_ / "model", true);
  for (const QuantizationDtype dtype :
       {QuantizationDtype::FP32, QuantizationDtype::FP16, QuantizationDtype::INT8, QuantizationDtype::INT4}) {
    const ReadProgram read = program(config(whole(dtype)));
    EXPECT_EQ(
        read.at("logits").type == "linear" ? read.at("logits").input("weight") : read.at("lm_head").input("weight"),
        read.at("embedding").input("x"));
    fs::remove_all(folder_ / "x.mlpackage");
  }
  QuantizationConfig mixed = {.dtype = QuantizationDtype::INT8};
  mixed.head_dtype = QuantizationDtype::FP16;
  const ReadProgram read = program(config(mixed));
  EXPECT_EQ(read.at("lm_head").input("weight"), read.at("embedding").input("x"));
}

TEST_F(CoreMLExports, NameTheKernelOfEachLayer) {
  const auto kernel = [&](const BackendConfig& wanted, const std::string& layer) {
    const ExportResult result = CoreMLBackend(wanted).dry_run(model(), testing::wide_findings());
    EXPECT_TRUE(result.success) << result.error_message;
    for (const StoredLayer& stored : result.metadata.layers) {
      if (stored.plan.layer == layer && stored.plan.role != LayerRole::kBias) {
        return stored.kernel;
      }
    }
    return std::string("absent");
  };
  EXPECT_EQ(kernel(config({}), "layers.0.q_proj"), "fp32 x fp32");
  EXPECT_EQ(kernel(config({}), "embedding"), "gather x fp32");
  EXPECT_EQ(kernel(config({}), "norm"), "");
  EXPECT_EQ(kernel(config({.dtype = QuantizationDtype::INT8}), "layers.0.q_proj"), "fp16 x int8");
  EXPECT_EQ(kernel(config({.dtype = QuantizationDtype::INT8}), "lm_head"), "fp16 x fp16");
  EXPECT_EQ(kernel(config({.dtype = QuantizationDtype::INT4}), "layers.1.down_proj"), "fp16 x int4");
  EXPECT_EQ(kernel(config({.dtype = QuantizationDtype::INT4}, {{"palette", "true"}}), "layers.1.down_proj"),
            "fp16 x palette4");
  EXPECT_EQ(kernel(config(whole(QuantizationDtype::INT8, QuantizationMode::STATIC)), "lm_head"), "int8 x int8");
}

TEST_F(CoreMLExports, SayWhatTheyAre) {
  BackendConfig wanted = config({.dtype = QuantizationDtype::INT4}, {{"compute_unit", "cpu_only"}});
  wanted.input_lengths = parse_input_lengths("8,24");
  const Tree tree = exported(wanted);
  const Proto metadata = Proto(tree.at(kModelFile)).at(2).at(100);
  EXPECT_EQ(metadata.text(1), "diffulex-edge sdar");
  const auto entries = metadata.entries(100);
  const std::map<std::string, std::string> notes(entries.begin(), entries.end());
  EXPECT_EQ(notes.at("com.diffulex-edge.options"),
            "dtype=int4, mode=weight_only, method=rtn, group_size=32, arithmetic=fp16, target=iOS18, lengths=8,24");
  EXPECT_EQ(notes.at("com.diffulex-edge.compute_unit"), "cpu_only");
  EXPECT_EQ(notes.at("com.diffulex-edge.source_sha256"), hash_model(model(), {}).sha256);
  EXPECT_FALSE(notes.at("com.diffulex-edge.version").empty());
  EXPECT_EQ(notes.size(), 4U);
}

// --- Warnings.

bool warns(const ExportResult& result, const std::string& text) {
  EXPECT_TRUE(result.success) << result.error_message;
  return std::ranges::any_of(result.metadata.warnings,
                             [&](const std::string& warning) { return warning.find(text) != std::string::npos; });
}

TEST_F(CoreMLExports, WarnOfWhatIsNotAsItSounds) {
  const auto dry = [&](const BackendConfig& wanted) {
    return CoreMLBackend(wanted).dry_run(model(), testing::wide_findings());
  };
  const std::string dynamic = "no operator that quantizes activations at run time";
  EXPECT_TRUE(warns(dry(config(whole(QuantizationDtype::INT8, QuantizationMode::DYNAMIC))), dynamic));
  EXPECT_FALSE(warns(dry(config(whole(QuantizationDtype::INT8))), dynamic));
  EXPECT_FALSE(warns(dry(config(whole(QuantizationDtype::FP16, QuantizationMode::DYNAMIC))), dynamic));
  const std::string engine = "Neural Engine's compiler does not take INT4 weights with scales";
  const Options ne = {{"compute_unit", "cpu_and_ne"}};
  EXPECT_TRUE(warns(dry(config({.dtype = QuantizationDtype::INT4}, ne)), engine));
  EXPECT_FALSE(warns(dry(config({.dtype = QuantizationDtype::INT4})), engine));
  EXPECT_FALSE(warns(dry(config({.dtype = QuantizationDtype::INT8}, ne)), engine));
  EXPECT_FALSE(warns(
      dry(config({.dtype = QuantizationDtype::INT4}, {{"compute_unit", "cpu_and_ne"}, {"palette", "true"}})), engine));
}

// --- Chunks.

TEST_F(CoreMLExports, CutAPipelineIntoPartsOfTheirSize) {
  constexpr std::int64_t kLimit = 60'000;
  const Tree tree = exported(config({.dtype = QuantizationDtype::INT8}, {{"chunk_size", std::to_string(kLimit)}}));
  const Proto model_message(tree.at(kModelFile));
  EXPECT_EQ(model_message.tags(), (std::set<std::uint32_t>{1, 2, 202}));
  const std::vector<std::string> parts = model_message.at(202).all(1);
  ASSERT_GE(parts.size(), 2U);
  EXPECT_EQ(tree.size(), 2U + parts.size());
  std::string passed = "input_ids";
  std::size_t linears = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::string file = std::to_string(i) + "-weight.bin";
    const std::string& weights = tree.at(kWeightsFolder + file);
    EXPECT_LE(static_cast<std::int64_t>(weights.size()), kLimit);
    const ReadProgram read = testing::read_program(Proto(parts[i]).text(502));
    expect_blobs(read, weights, file);
    ASSERT_EQ(read.inputs.size(), 1U);
    EXPECT_EQ(read.inputs[0].first, passed);
    ASSERT_EQ(read.outputs.size(), 1U);
    passed = read.outputs[0];
    linears += read.of_type("linear").size();
  }
  EXPECT_EQ(passed, "logits");
  EXPECT_EQ(linears, 15U);
}

TEST_F(CoreMLExports, PutAsMuchIntoAPartAsFits) {
  const auto parts = [&](std::int64_t limit) {
    const BackendConfig wanted = config({.dtype = QuantizationDtype::INT8}, {{"chunk_size", std::to_string(limit)}});
    const Tree tree = exported(wanted);
    fs::remove_all(folder_ / "x.mlpackage");
    return tree;
  };
  const Tree one = parts(1 << 30);
  const auto all = static_cast<std::int64_t>(one.at(std::string(kWeightsFolder) + "0-weight.bin").size());
  EXPECT_EQ(one.size(), 3U);
  EXPECT_EQ(parts(all).size(), 3U);
  EXPECT_EQ(parts(all - 1).size(), 4U);
}

TEST_F(CoreMLExports, RefuseChunksThatHoldNoLayer) {
  const ExportResult result = run({.dtype = QuantizationDtype::INT8}, {{"chunk_size", "10000"}});
  EXPECT_EQ(result.error_code, ErrorCode::kUnsupported);
  EXPECT_TRUE(result.error_message.starts_with("chunk size: 10000 bytes are less than the ")) << result.error_message;
  EXPECT_TRUE(result.error_message.ends_with("layers.0.input_norm and what can't be parted from it take"))
      << result.error_message;
  const ExportResult first = run({.dtype = QuantizationDtype::INT8}, {{"chunk_size", "1"}});
  EXPECT_NE(first.error_message.find("that embedding and"), std::string::npos) << first.error_message;
  EXPECT_EQ(entries(), std::vector<std::string>{"model"});
}

TEST_F(CoreMLExports, WriteAFolderOfPackages) {
  const Options named = {{"chunk_size", "60000"}, {"chunks", "packages"}};
  const Tree tree = exported(config({.dtype = QuantizationDtype::INT8}, named), "parts");
  const auto manifest = nlohmann::json::parse(tree.at("manifest.json"));
  EXPECT_EQ(manifest.at("format"), "diffulex-edge coreml chunks");
  EXPECT_EQ(manifest.at("version"), 1);
  ASSERT_GE(manifest.at("parts").size(), 2U);
  EXPECT_EQ(tree.size(), 1U + 3U * manifest.at("parts").size());
  std::string passed = "input_ids";
  for (const auto& part : manifest.at("parts")) {
    const auto package = part.at("package").get<std::string>() + "/";
    EXPECT_TRUE(package.ends_with(".mlpackage/"));
    EXPECT_TRUE(tree.contains(package + "Manifest.json"));
    const std::string& weights = tree.at(package + kWeightsFolder + "weight.bin");
    EXPECT_EQ(part.at("weight_bytes"), weights.size());
    EXPECT_LE(weights.size(), 60000U);
    const ReadProgram read = testing::read_program(Proto(tree.at(package + kModelFile)).text(502));
    expect_blobs(read, weights, "weight.bin");
    EXPECT_EQ(part.at("input"), passed);
    EXPECT_EQ(read.inputs.at(0).first, passed);
    passed = part.at("output");
    EXPECT_EQ(read.outputs, std::vector<std::string>{passed});
  }
  EXPECT_EQ(passed, "logits");
}

// --- Containers.

TEST_F(CoreMLExports, PutThePackageIntoAPte) {
  const QuantizationConfig int8 = {.dtype = QuantizationDtype::INT8};
  ASSERT_TRUE(run(int8, {{"container", "pte"}, {"compute_unit", "cpu_and_gpu"}}, "x.pte").success);
  const testing::CoreMLPte pte(testing::read_file(folder_ / "x.pte"));
  const Tree package = exported(config(int8, {{"compute_unit", "cpu_and_gpu"}}));
  for (const auto& [path, content] : package) {
    EXPECT_TRUE(pte.files().at("model.mlpackage/" + path) == content) << path;
  }
  EXPECT_EQ(pte.files().size(), package.size() + 1);  // metadata.json
  const auto& spec = *pte.plan().delegates()->Get(0)->compile_specs()->Get(0);
  EXPECT_EQ(std::string(spec.value()->begin(), spec.value()->end()), "cpu_and_gpu");
}

TEST_F(CoreMLExports, GiveEveryOtherPteAnotherIdentifier) {
  const auto identifier = [&](const QuantizationConfig& quantization, const Options& more = {}) {
    Options named = {{"container", "pte"}};
    named.insert(more.begin(), more.end());
    EXPECT_TRUE(run(quantization, named, "x.pte").success);
    const testing::CoreMLPte pte(testing::read_file(folder_ / "x.pte"));
    return nlohmann::json::parse(pte.files().at("metadata.json")).at("identifier").get<std::string>();
  };
  std::set<std::string> seen;
  seen.insert(identifier({.dtype = QuantizationDtype::INT8}));
  seen.insert(identifier({.dtype = QuantizationDtype::INT8, .method = RoundingMethod::MSE}));  // other weights
  seen.insert(identifier({.dtype = QuantizationDtype::INT8}, {{"compute_unit", "cpu_only"}}));
  EXPECT_EQ(identifier({.dtype = QuantizationDtype::INT8}), identifier({.dtype = QuantizationDtype::INT8}));
  std::vector<testing::TestTensor> tensors = testing::qwen3_tensors(true);
  tensors.back().bytes[0] ^= 1;  // other weights of the same model
  testing::write_model(folder_ / "model", testing::transformers_config("sdar", "SDARForCausalLM"), tensors);
  seen.insert(identifier({.dtype = QuantizationDtype::INT8}));
  EXPECT_EQ(seen.size(), 4U);
}

// --- Targets.

TEST_F(CoreMLExports, ReplaceAnOlderPackage) {
  const Tree old = exported(config({.dtype = QuantizationDtype::INT8}, {{"chunk_size", "60000"}}));
  const Tree fresh = exported(config({.dtype = QuantizationDtype::INT4}));
  EXPECT_EQ(fresh.size(), 3U);
  EXPECT_LT(fresh.size(), old.size());
  EXPECT_EQ(entries(), (std::vector<std::string>{"model", "x.mlpackage"}));
  // As a shell completes the name of a folder.
  EXPECT_TRUE(exported(config({.dtype = QuantizationDtype::INT4}), "x.mlpackage/") == fresh);
  EXPECT_EQ(entries(), (std::vector<std::string>{"model", "x.mlpackage"}));
}

TEST_F(CoreMLExports, ReplaceAnOlderFolderOfPackages) {
  const Options named = {{"chunk_size", "60000"}, {"chunks", "packages"}};
  const Tree first = exported(config({.dtype = QuantizationDtype::INT8}, named), "parts");
  testing::write_file(folder_ / "parts/part_99.mlpackage", "stale");
  EXPECT_TRUE(exported(config({.dtype = QuantizationDtype::INT8}, named), "parts") == first);
}

TEST_F(CoreMLExports, LeaveForeignFoldersAlone) {
  fs::create_directory(folder_ / "x.mlpackage");
  testing::write_file(folder_ / "x.mlpackage/photo", "kept");
  const Options packages = {{"chunk_size", "60000"}, {"chunks", "packages"}};
  for (const Options& named : {Options{}, Options{{"chunk_size", "60000"}}, packages}) {
    const ExportResult result = run({.dtype = QuantizationDtype::INT8}, named);
    EXPECT_EQ(result.error_code, ErrorCode::kIo);
    EXPECT_EQ(result.error_message,
              (folder_ / "x.mlpackage").string() + ": exists and is not an empty folder (name another folder)");
  }
  // A manifest.json of someone else: a web application, another packager.
  for (const char* manifest : {"{}", R"({"name": "app"})", R"({"format": "other"})", "[]", "no JSON", ""}) {
    testing::write_file(folder_ / "x.mlpackage/manifest.json", manifest);
    EXPECT_EQ(run({.dtype = QuantizationDtype::INT8}, packages).error_code, ErrorCode::kIo) << manifest;
    EXPECT_EQ(run({.dtype = QuantizationDtype::INT8}).error_code, ErrorCode::kIo) << manifest;
  }
  EXPECT_EQ(testing::read_file(folder_ / "x.mlpackage/photo"), "kept");
  // A package is not replaced by a folder of packages, nor the other way round.
  exported(config({.dtype = QuantizationDtype::INT8}), "y.mlpackage");
  EXPECT_EQ(run({.dtype = QuantizationDtype::INT8}, packages, "y.mlpackage").error_code, ErrorCode::kIo);
  exported(config({.dtype = QuantizationDtype::INT8}, packages), "z.mlpackage");
  EXPECT_EQ(run({.dtype = QuantizationDtype::INT8}, {}, "z.mlpackage").error_code, ErrorCode::kIo);
}

TEST_F(CoreMLExports, NeedANameThatCoreMLOpens) {
  for (const char* name : {"x", "x.pte", "x.mlpackage.old", "x.mlmodel"}) {
    const std::string sentence =
        (folder_ / name).string() + ": Core ML opens only folders named .mlpackage (name it with -o NAME.mlpackage)";
    expect_refused(config({.dtype = QuantizationDtype::INT8}), ErrorCode::kInvalidArgument, sentence, name);
  }
  EXPECT_TRUE(run({.dtype = QuantizationDtype::INT8}, {{"container", "pte"}}, "x").success);
  EXPECT_TRUE(run({.dtype = QuantizationDtype::INT8}, {{"chunk_size", "60000"}, {"chunks", "packages"}}, "y").success);
}

TEST_F(CoreMLExports, RefuseToWriteOverTheModel) {
  const ExportResult result =
      run({.dtype = QuantizationDtype::INT8}, {{"container", "pte"}}, "model/model.safetensors");
  EXPECT_EQ(result.error_code, ErrorCode::kInvalidArgument);
  EXPECT_NE(result.error_message.find("a file of the model itself"), std::string::npos);
  EXPECT_EQ(
      run({.dtype = QuantizationDtype::INT8}, {{"chunk_size", "60000"}, {"chunks", "packages"}}, "model").error_code,
      ErrorCode::kIo);
  EXPECT_NO_THROW(model());
}

TEST_F(CoreMLExports, LeaveNothingWhereTheyAreCancelled) {
  for (const Options& named :
       {Options{}, Options{{"container", "pte"}}, Options{{"chunk_size", "60000"}}, Options{{"palette", "true"}}}) {
    std::stop_source source;
    source.request_stop();
    const ExportResult at_once = run(config({.dtype = QuantizationDtype::INT4}, named), "x.mlpackage",
                                     {.threads = 1, .stop = source.get_token()});
    EXPECT_EQ(at_once.error_code, ErrorCode::kCancelled) << at_once.error_message;
    EXPECT_EQ(entries(), std::vector<std::string>{"model"});
    std::stop_source later;
    RunControl control{.threads = 1, .stop = later.get_token()};
    control.on_progress = [&](const Progress& progress) {
      if (progress.stage == "weights") {
        later.request_stop();
      }
    };
    const ExportResult underway = run(config({.dtype = QuantizationDtype::INT4}, named), "x.mlpackage", control);
    EXPECT_EQ(underway.error_code, ErrorCode::kCancelled) << underway.error_message;
    EXPECT_EQ(entries(), std::vector<std::string>{"model"});
  }
  exported(config({.dtype = QuantizationDtype::INT4}));
  const Tree old = read_tree(folder_ / "x.mlpackage");
  std::stop_source source;
  source.request_stop();
  run(config({.dtype = QuantizationDtype::INT8}), "x.mlpackage", {.stop = source.get_token()});
  EXPECT_TRUE(read_tree(folder_ / "x.mlpackage") == old);
}

TEST_F(CoreMLExports, LeaveNothingWhereAWeightIsBroken) {
  std::vector<testing::TestTensor> tensors = testing::qwen3_tensors(true);
  tensors.back().bytes.replace(0, 4, "\xFF\xFF\xFF\x7F");  // NaN
  testing::write_model(folder_ / "model", testing::transformers_config("sdar", "SDARForCausalLM"), tensors);
  for (const Options& named : {Options{}, Options{{"palette", "true"}}, Options{{"container", "pte"}}}) {
    const ExportResult result = run(whole(QuantizationDtype::INT4), named);
    EXPECT_EQ(result.error_code, ErrorCode::kBadFile);
    EXPECT_NE(result.error_message.find("lm_head.weight"), std::string::npos) << result.error_message;
    EXPECT_EQ(entries(), std::vector<std::string>{"model"});
  }
}

// --- Refusals.

TEST_F(CoreMLExports, RefuseWhatTheTargetLacks) {
  for (const char* target : {"iOS16", "iOS17"}) {
    expect_refused(config({.dtype = QuantizationDtype::INT4}, {{"minimum_deployment_target", target}}),
                   ErrorCode::kUnsupported,
                   "dtype int4: INT4 weights with scales need the deployment target iOS18 or macOS15 (raise "
                   "--minimum-deployment-target, or use --palette)");
  }
  for (const char* target : {"iOS16", "macOS14"}) {
    expect_refused(config({.dtype = QuantizationDtype::PALETTE3}, {{"minimum_deployment_target", target}}),
                   ErrorCode::kUnsupported,
                   "dtype palette3: PALETTE3 needs the deployment target iOS18 or macOS15 (raise "
                   "--minimum-deployment-target, or use palettes of 1, 2, 4, 6 or 8 bits)");
    expect_refused(
        config({.dtype = QuantizationDtype::PALETTE6, .palette_group = 8}, {{"minimum_deployment_target", target}}),
        ErrorCode::kUnsupported,
        "dtype palette6: groups of rows with tables of their own need the deployment target iOS18 or macOS15 "
        "(leave out --palette-group for one table a weight)");
  }
  expect_refused(
      config(whole(QuantizationDtype::INT8, QuantizationMode::STATIC), {{"minimum_deployment_target", "iOS16"}}),
      ErrorCode::kUnsupported,
      "mode static: needs the deployment target iOS17 or macOS14 (raise "
      "--minimum-deployment-target, or use --mode weight_only)");
}

TEST_F(CoreMLExports, RefusePalettesWithoutInt4) {
  for (const QuantizationDtype dtype : {QuantizationDtype::FP32, QuantizationDtype::FP16, QuantizationDtype::INT8}) {
    expect_refused(config(whole(dtype), {{"palette", "true"}}), ErrorCode::kInvalidArgument,
                   "palette: no layer is INT4 (add --dtype int4)");
  }
}

TEST_F(CoreMLExports, RefuseOtherActivations) {
  BackendConfig wanted = config(whole(QuantizationDtype::INT8));
  wanted.activation_dtype = ActivationDtype::INT16;
  expect_refused(wanted, ErrorCode::kUnsupported,
                 "activation dtype int16: is not available with Core ML (use --mode static for 8-bit activations)");
  wanted = config(whole(QuantizationDtype::INT8, QuantizationMode::DYNAMIC));
  wanted.activation_dtype = ActivationDtype::INT8;
  expect_refused(wanted, ErrorCode::kInvalidArgument,
                 "activation dtype int8: is mode static, not dynamic (leave it out: mode dynamic computes in floating "
                 "point with Core ML)");
  for (const QuantizationDtype dtype : {QuantizationDtype::FP32, QuantizationDtype::FP16}) {
    wanted = config(whole(dtype));
    wanted.activation_dtype = ActivationDtype::INT8;
    expect_refused(wanted, ErrorCode::kUnsupported,
                   "activation dtype int8: Core ML takes it with INT8 and INT4 weights only (use --dtype int8)");
  }
}

TEST_F(CoreMLExports, RefuseLengthsThatAreNotTheModels) {
  BackendConfig wanted = config({.dtype = QuantizationDtype::INT8});
  wanted.input_lengths = parse_input_lengths("8..32");
  const ExportResult result = CoreMLBackend(wanted).export_model(model(24), folder_ / "x.mlpackage");
  EXPECT_EQ(result.error_code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(result.error_message, "sequence length: the longest input has 32 tokens, the model 24");
}

TEST_F(CoreMLExports, RefuseUnknownOptions) {
  expect_refused(config({}, {{"fast", "1"}}), ErrorCode::kInvalidArgument,
                 "backend option 'fast': is not known to the Core ML backend");
}

TEST_F(CoreMLExports, RefusePalettesOfAQuantizedCheckpoint) {
  const QuantizationConfig int4 = {.dtype = QuantizationDtype::INT4, .group_size = 0};
  write_quantized_checkpoint(model(), quantize_model(model(), int4).plan, folder_ / "q");
  const Model stored = load_model(folder_ / "q", options(24));
  const ExportResult plain = CoreMLBackend(config(int4)).export_model(stored, folder_ / "x.mlpackage");
  EXPECT_TRUE(plain.success) << plain.error_message;
  const ExportResult result = CoreMLBackend(config(int4, {{"palette", "true"}})).dry_run(stored);
  EXPECT_EQ(result.error_code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(result.error_message,
            "model.layers.0.self_attn.q_proj.weight: the checkpoint stores it as i4 per channel, f32 scales, it can't "
            "become palette4 "
            "(start from the unquantized checkpoint)");
}

// The same integers and scales, whether they come from the model or from its quantized checkpoint.
TEST_F(CoreMLExports, AreTheSameFromAQuantizedCheckpoint) {
  const QuantizationConfig int4 = {.dtype = QuantizationDtype::INT4};
  write_quantized_checkpoint(model(), quantize_model(model(), int4).plan, folder_ / "q");
  const Tree direct = exported(config(int4));
  ASSERT_TRUE(CoreMLBackend(config(int4))
                  .export_model(load_model(folder_ / "q", options(24)), folder_ / "y.mlpackage")
                  .success);
  const std::string weights = std::string(kWeightsFolder) + "weight.bin";
  EXPECT_TRUE(read_tree(folder_ / "y.mlpackage").at(weights) == direct.at(weights));
}

// --- What is said to be supported.

TEST_F(CoreMLExports, AreSupportedAsIsSaid) {
  for (const QuantizationDtype dtype :
       {QuantizationDtype::FP32, QuantizationDtype::FP16, QuantizationDtype::INT8, QuantizationDtype::INT4}) {
    for (const QuantizationMode mode :
         {QuantizationMode::WEIGHT_ONLY, QuantizationMode::DYNAMIC, QuantizationMode::STATIC}) {
      SCOPED_TRACE(std::string(to_string(dtype)) + " " + std::string(to_string(mode)));
      QuantizationConfig quantization = whole(dtype, mode);
      if (mode == QuantizationMode::STATIC) {
        quantization.group_size = 0;
      }
      const Support support = coreml::description().support(dtype, mode);
      EXPECT_FALSE(support.note.empty());
      EXPECT_NE(support.level, SupportLevel::kUnsupported);
      const ExportResult result = CoreMLBackend(config(quantization)).dry_run(model(), testing::wide_findings());
      EXPECT_TRUE(result.success) << result.error_message;
      const bool is_int4 = dtype == QuantizationDtype::INT4;
      const bool partial = (mode == QuantizationMode::DYNAMIC && (is_int4 || dtype == QuantizationDtype::INT8)) ||
                           (mode == QuantizationMode::STATIC && is_int4);
      EXPECT_EQ(support.level, partial ? SupportLevel::kPartial : SupportLevel::kFull);
    }
  }
  const CoreMLBackend backend;
  EXPECT_EQ(backend.name(), "coreml");
  EXPECT_EQ(BackendRegistry::instance().create("coreml", {})->name(), "coreml");
  const auto note = [](QuantizationDtype dtype, QuantizationMode mode) {
    return coreml::description().support(dtype, mode).note;
  };
  EXPECT_NE(note(QuantizationDtype::INT8, QuantizationMode::STATIC).find("iOS17"), std::string::npos);
  EXPECT_NE(note(QuantizationDtype::INT8, QuantizationMode::DYNAMIC).find("no operator"), std::string::npos);
  EXPECT_NE(note(QuantizationDtype::INT4, QuantizationMode::WEIGHT_ONLY).find("iOS18"), std::string::npos);
}

}  // namespace
}  // namespace diffulex_edge
