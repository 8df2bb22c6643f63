#include "diffulex_edge/inspection.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/sha256.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/xnnpack_backend.h"
#include "support/expect_error.h"
#include "support/reference_decoder.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

std::string hash(const std::string& bytes) { return sha256_hex(std::as_bytes(std::span(bytes))); }

class InspectTest : public ::testing::Test {
 protected:
  static const InspectedTensor& find(const Inspection& inspection, const std::string& name) {
    // The names of packed weights end with a hash of their content.
    const auto found = std::ranges::find_if(inspection.tensors, [&](const InspectedTensor& tensor) {
      return tensor.name == name || tensor.name.starts_with(name + ":");
    });
    if (found == inspection.tensors.end()) {
      throw std::logic_error("there is no tensor " + name);
    }
    return *found;
  }
  testing::TemporaryFolder folder_;
};

TEST_F(InspectTest, ShowsEveryTensorOfAFileWhereItIs) {
  const std::string bytes =
      testing::safetensors_file({{.name = "a", .dtype = DType::kBF16, .shape = {2, 3}, .bytes = "0123456789ab"},
                                 {.name = "b", .dtype = DType::kI64, .shape = {1}, .bytes = "ABCDEFGH"},
                                 {.name = "none", .dtype = DType::kF32, .shape = {0, 3}, .bytes = ""}});
  testing::write_file(folder_ / "m.safetensors", bytes);
  const Inspection inspection = inspect(folder_ / "m.safetensors");
  EXPECT_EQ(inspection.kind, "safetensors");
  EXPECT_FALSE(inspection.config.has_value());
  EXPECT_EQ(inspection.file_bytes, static_cast<std::int64_t>(bytes.size()));
  EXPECT_EQ(inspection.parameters(), 7);
  ASSERT_EQ(inspection.tensors.size(), 3U);
  for (const InspectedTensor& tensor : inspection.tensors) {
    const std::string content =
        bytes.substr(static_cast<std::size_t>(tensor.offset), static_cast<std::size_t>(tensor.bytes));
    EXPECT_EQ(tensor.sha256, hash(content)) << tensor.name;
    EXPECT_EQ(tensor.file, "m.safetensors");
  }
  EXPECT_EQ(find(inspection, "a").dtype, "BF16");
  EXPECT_EQ(find(inspection, "a").shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(find(inspection, "b").sha256, hash("ABCDEFGH"));
}

TEST_F(InspectTest, KnowsASafetensorsFileByItsContent) {
  testing::write_file(folder_ / "blob", testing::safetensors_bytes("{}", ""));
  const Inspection inspection = inspect(folder_ / "blob");
  EXPECT_EQ(inspection.kind, "safetensors");
  EXPECT_EQ(inspection.file_bytes, 8 + 2);  // without a tensor
}

TEST_F(InspectTest, LeavesHashesOutOnRequest) {
  testing::write_sdar(folder_ / "model");
  for (const InspectedTensor& tensor : inspect(folder_ / "model", {.hashes = false}).tensors) {
    EXPECT_TRUE(tensor.sha256.empty());
  }
}

TEST_F(InspectTest, ReadsAModelsFolder) {
  const testing::ReferenceDecoder reference = testing::reference_decoder("qwen3");
  testing::write_model(folder_ / "model", reference.config, reference.tensors());
  const Inspection inspection = inspect(folder_ / "model");
  EXPECT_EQ(inspection.kind, "checkpoint");
  ASSERT_TRUE(inspection.config.has_value());
  EXPECT_EQ(inspection.config->family, "qwen3");
  EXPECT_EQ(inspection.tensors.size(), reference.tensors().size());
  EXPECT_EQ(inspection.file_bytes,
            static_cast<std::int64_t>(std::filesystem::file_size(folder_ / "model/model.safetensors")));
}

TEST_F(InspectTest, CountsTheElementsOfPackedWeightsOnce) {
  testing::write_sdar(folder_ / "model");
  const Model model = load_model(folder_ / "model");
  const auto quantized = quantize_model(model, {.dtype = QuantizationDtype::INT4});
  write_quantized_checkpoint(model, quantized.plan, folder_ / "q");
  const Inspection inspection = inspect(folder_ / "q");
  const InspectedTensor& weight = find(inspection, "model.layers.0.mlp.down_proj.weight");
  EXPECT_EQ(weight.dtype, "I4");
  EXPECT_EQ(weight.shape, (std::vector<std::int64_t>{64, 96}));
  EXPECT_EQ(weight.group_size, 32);
  EXPECT_EQ(weight.bytes, 64 * 48);
  EXPECT_EQ(find(inspection, "model.layers.0.mlp.down_proj.weight_scale").dtype, "BF16");
  EXPECT_EQ(inspection.parameters(), quantized.parameters);
}

TEST_F(InspectTest, ReadsOurPrograms) {
  testing::write_sdar(folder_ / "model");
  const Model model = load_model(folder_ / "model");
  BackendConfig config{
      .quant_config = {.dtype = QuantizationDtype::INT8}, .activation_dtype = {}, .backend_options = {}};
  ASSERT_TRUE(XNNPACKBackend(config).export_model(model, folder_ / "x.pte").success);
  const std::string bytes = testing::read_file(folder_ / "x.pte");
  const Inspection inspection = inspect(folder_ / "x.pte");
  EXPECT_EQ(inspection.kind, "executorch_program");
  EXPECT_EQ(inspection.file_bytes, static_cast<std::int64_t>(bytes.size()));
  EXPECT_EQ(inspection.sha256, hash(bytes));
  ASSERT_EQ(inspection.methods.size(), 1U);
  const InspectedMethod& method = inspection.methods[0];
  EXPECT_EQ(method.name, "forward");
  ASSERT_EQ(method.inputs.size(), 1U);
  EXPECT_EQ(method.inputs[0].dtype, "LONG");
  EXPECT_EQ(method.inputs[0].shape, (std::vector<std::int64_t>{1, 1024}));
  EXPECT_TRUE(method.inputs[0].dynamic);
  ASSERT_EQ(method.outputs.size(), 1U);
  EXPECT_EQ(method.outputs[0].dtype, "FLOAT");
  EXPECT_EQ(method.outputs[0].shape, (std::vector<std::int64_t>{1, 1024, 50}));
  // Ids, embedded tokens, positions and logits, each at a multiple of 16.
  EXPECT_EQ(method.arena_bytes, 1024 * (8 + 4 * 64 + 4 + 4 * 50));
  ASSERT_EQ(method.delegates.size(), 1U);
  EXPECT_EQ(method.delegates[0].id, "XnnpackBackend");
  EXPECT_GT(method.delegates[0].nodes.at("FullyConnected"), 14);
  const InspectedTensor& weight = find(inspection, "model.layers.0.self_attn.q_proj.weight:i8");
  EXPECT_EQ(weight.dtype, "qcint8");
  EXPECT_EQ(weight.shape, (std::vector<std::int64_t>{64, 64}));
  EXPECT_EQ(weight.bytes, 64 * 64);
  EXPECT_EQ(weight.sha256, hash(bytes.substr(static_cast<std::size_t>(weight.offset), 64 * 64)));
}

TEST_F(InspectTest, RefusesWhatItDoesNotKnow) {
  for (const std::string& bytes : {std::string("hello"), std::string(100, '\0'), std::string("PK\3\4xxxxxxxxxx"),
                                   std::string("....ET12"), std::string("{\"a\": 1}")}) {
    testing::write_file(folder_ / "x", bytes);
    testing::expect_error(ErrorCode::kBadFile, {"neither a safetensors file nor an ExecuTorch program"},
                          [&] { inspect(folder_ / "x"); });
  }
  testing::write_file(folder_ / "x.safetensors", "hello");
  testing::expect_error(ErrorCode::kBadFile, {"at least 8 bytes"}, [&] { inspect(folder_ / "x.safetensors"); });
  testing::expect_error(ErrorCode::kBadFile, {"absent"}, [&] { inspect(folder_ / "absent"); });
  testing::write_file(folder_ / "empty", "");
  testing::expect_error(ErrorCode::kBadFile, {"empty"}, [&] { inspect(folder_ / "empty"); });
}

TEST_F(InspectTest, StopsWhenAsked) {
  testing::write_sdar(folder_ / "model");
  std::stop_source source;
  source.request_stop();
  testing::expect_error(ErrorCode::kCancelled, {},
                        [&] { inspect(folder_ / "model", {}, {.threads = 2, .stop = source.get_token()}); });
}

}  // namespace
}  // namespace diffulex_edge
