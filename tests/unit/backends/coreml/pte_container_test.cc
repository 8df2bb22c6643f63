#include "backends/coreml/pte_container.h"

#include <gtest/gtest.h>

#include <regex>
#include <span>

#include "support/coreml_payload.h"
#include "support/temporary_folder.h"

namespace diffulex_edge::coreml {
namespace {

using Json = nlohmann::json;
using executorch::schema::ScalarType;
using testing::CoreMLPte;

const std::string kWeights = "weights of a model";

class PteContainers : public ::testing::Test {
 protected:
  explicit PteContainers(bool flexible = false) {
    const Dim seq = {.value = 32, .is_sequence = flexible};
    const auto x = function_.input("input_ids", {.dtype = MilDtype::kInt32, .shape = {{.value = 1}, seq}});
    const auto y =
        function_.add("f", {{"x", {x}}}, {.dtype = MilDtype::kFloat32, .shape = {{.value = 1}, seq, {.value = 5}}});
    function_.output(y, "logits");
  }
  PteContainer container(const PteContainer::Files& files) const {
    return {files,
            "Data/weights/weight.bin",
            static_cast<std::int64_t>(kWeights.size()),
            function_,
            {DType::kI64},
            deployment_target(17),
            "cpu_and_ne"};
  }
  CoreMLPte write(const PteContainer& container) const {
    OutputFile file(folder_ / "x.pte", container.file_bytes());
    container.write(file);
    file.write(container.weights_offset(), std::as_bytes(std::span(kWeights)));
    file.commit();
    const std::string bytes = testing::read_file(folder_ / "x.pte");
    EXPECT_EQ(static_cast<std::int64_t>(bytes.size()), container.file_bytes());
    return CoreMLPte(bytes);
  }
  testing::TemporaryFolder folder_;
  MilFunction function_;
};

const PteContainer::Files kFiles = {{"Manifest.json", "the manifest"}, {"Data/model.mlmodel", "the model"}};

TEST_F(PteContainers, HoldThePackagesFiles) {
  const PteContainer made = container(kFiles);
  const CoreMLPte pte = write(made);
  ASSERT_EQ(pte.files().size(), 4U);
  EXPECT_EQ(pte.files().at("model.mlpackage/Manifest.json"), "the manifest");
  EXPECT_EQ(pte.files().at("model.mlpackage/Data/model.mlmodel"), "the model");
  EXPECT_EQ(pte.files().at("model.mlpackage/Data/weights/weight.bin"), kWeights);
  EXPECT_TRUE(pte.files().contains("metadata.json"));
  EXPECT_EQ(pte.directory().at("nodes").back().at("kind"), 1);
}

TEST_F(PteContainers, EndWithTheirDirectoryInReverse) {
  write(container(kFiles));
  const std::string bytes = testing::read_file(folder_ / "x.pte");
  EXPECT_TRUE(bytes.ends_with("[:\"sedon\"{"));
}

TEST_F(PteContainers, NameInputsAndOutputsInOrder) {
  const Json metadata = Json::parse(write(container(kFiles)).files().at("metadata.json"));
  EXPECT_EQ(metadata.at("inputNames"), Json::array({"input_ids"}));
  EXPECT_EQ(metadata.at("outputNames"), Json::array({"logits"}));
  EXPECT_EQ(metadata.size(), 3U);
}

// The device caches compiled models by it, and never compares what it names.
TEST_F(PteContainers, HaveAnIdentifierOfTheirContent) {
  const auto identifier = [&](const PteContainer::Files& files) {
    return Json::parse(write(container(files)).files().at("metadata.json")).at("identifier").get<std::string>();
  };
  const std::string one = identifier(kFiles);
  EXPECT_TRUE(std::regex_match(one, std::regex("executorch_[0-9a-f]{64}"))) << one;
  EXPECT_EQ(identifier(kFiles), one);
  EXPECT_NE(identifier({{"Manifest.json", "the manifest"}, {"Data/model.mlmodel", "the modem"}}), one);
  EXPECT_NE(identifier({{"Manifest.json", "the Manifest"}, {"Data/model.mlmodel", "the model"}}), one);
}

TEST_F(PteContainers, CallTheDelegateOnceWithItsSpecs) {
  const CoreMLPte pte = write(container(kFiles));
  const auto& plan = pte.plan();
  EXPECT_EQ(pte.program().execution_plan()->size(), 1U);
  EXPECT_EQ(plan.name()->str(), "forward");
  ASSERT_EQ(plan.delegates()->size(), 1U);
  const auto& delegate = *plan.delegates()->Get(0);
  EXPECT_EQ(delegate.id()->str(), "CoreMLBackend");
  EXPECT_EQ(delegate.processed()->location(), executorch::schema::DataLocation::SEGMENT);
  EXPECT_EQ(delegate.processed()->index(), 0U);
  std::map<std::string, std::string> specs;
  for (const auto* spec : *delegate.compile_specs()) {
    ASSERT_NE(spec->value(), nullptr);
    specs[spec->key()->str()] = std::string(spec->value()->begin(), spec->value()->end());  // no NUL at the end
  }
  EXPECT_EQ(specs, (std::map<std::string, std::string>{
                       {"compute_units", "cpu_and_ne"}, {"min_deployment_target", "8"}, {"model_type", "model"}}));
  ASSERT_EQ(plan.chains()->size(), 1U);
  ASSERT_EQ(plan.chains()->Get(0)->instructions()->size(), 1U);
  const auto* call = plan.chains()->Get(0)->instructions()->Get(0)->instr_args_as_DelegateCall();
  ASSERT_NE(call, nullptr);
  std::vector<std::int32_t> arguments(plan.inputs()->begin(), plan.inputs()->end());
  arguments.insert(arguments.end(), plan.outputs()->begin(), plan.outputs()->end());
  EXPECT_TRUE(std::ranges::equal(*call->args(), arguments));
  EXPECT_EQ(plan.operators() == nullptr ? 0U : plan.operators()->size(), 0U);
}

const executorch::schema::Tensor& tensor_at(const CoreMLPte& pte, std::int32_t value) {
  return *pte.plan().values()->Get(static_cast<flatbuffers::uoffset_t>(value))->val_as_Tensor();
}

void expect_tensors(const CoreMLPte& pte, executorch::schema::TensorShapeDynamism dynamism) {
  const auto& ids = tensor_at(pte, pte.plan().inputs()->Get(0));
  EXPECT_EQ(ids.scalar_type(), ScalarType::LONG);
  EXPECT_TRUE(std::ranges::equal(*ids.sizes(), std::vector{1, 32}));
  EXPECT_EQ(ids.shape_dynamism(), dynamism);
  const auto& logits = tensor_at(pte, pte.plan().outputs()->Get(0));
  EXPECT_EQ(logits.scalar_type(), ScalarType::FLOAT);
  EXPECT_TRUE(std::ranges::equal(*logits.sizes(), std::vector{1, 32, 5}));
  EXPECT_EQ(logits.shape_dynamism(), dynamism);
}

TEST_F(PteContainers, TakeLongIdsAndGiveFloats) {
  expect_tensors(write(container(kFiles)), executorch::schema::TensorShapeDynamism::STATIC);
}

class FlexiblePteContainers : public PteContainers {
 protected:
  FlexiblePteContainers() : PteContainers(true) {}
};

TEST_F(FlexiblePteContainers, BoundTheSizesOfTheirTensors) {
  expect_tensors(write(container(kFiles)), executorch::schema::TensorShapeDynamism::DYNAMIC_BOUND);
}

TEST_F(PteContainers, TakeWeightsOfManyGibibytes) {  // nothing but their place is written
  constexpr std::int64_t kBytes = std::int64_t{6} << 30U;
  const PteContainer large(kFiles, "weight.bin", kBytes, function_, {DType::kI64}, deployment_target(18), "all");
  const PteContainer small(kFiles, "weight.bin", 1, function_, {DType::kI64}, deployment_target(18), "all");
  EXPECT_EQ(large.weights_offset() % 128, small.weights_offset() % 128);
  EXPECT_GT(large.file_bytes(), large.weights_offset() + kBytes);
  EXPECT_LT(large.file_bytes() - small.file_bytes(), kBytes + 1024);
}

}  // namespace
}  // namespace diffulex_edge::coreml
