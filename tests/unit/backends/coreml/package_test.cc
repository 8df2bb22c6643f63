#include "backends/coreml/package.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "support/mil_reader.h"
#include "support/temporary_folder.h"

namespace diffulex_edge::coreml {
namespace {

using testing::Proto;
using Json = nlohmann::json;
using Sizes = std::vector<std::int64_t>;

// FeatureTypes.proto's ArrayDataType.
constexpr int kHalf = 65552;
constexpr int kSingle = 65568;
constexpr int kInt = 131104;

MilFunction function_of(const std::string& input, MilDtype input_dtype, const std::string& output,
                        MilDtype output_dtype, bool flexible) {
  const Dim seq = {.value = 32, .is_sequence = flexible};
  MilFunction function;
  const auto x = function.input(input, {.dtype = input_dtype, .shape = {{.value = 1}, seq}});
  const auto y = function.add("f", {{"x", {x}}}, {.dtype = output_dtype, .shape = {{.value = 1}, seq, {.value = 5}}});
  function.output(y, output);
  return function;
}

MilFunction model_function(bool flexible) {
  return function_of("input_ids", MilDtype::kInt32, "logits", MilDtype::kFloat32, flexible);
}

const ModelNotes kNotes = {.description = "a model", .user_defined = {{"b", "2"}, {"a", "1"}}};

struct Array {
  std::string name;
  Sizes shape;
  std::int64_t dtype = 0;
  Proto message;
};

// A feature that is an array.
Array read_feature(const std::string& bytes) {
  const Proto feature(bytes);
  const Proto array = feature.at(3).at(5);
  return {.name = feature.text(1), .shape = array.numbers(1), .dtype = array.number(2), .message = array};
}

Array only_feature(const Proto& model, std::uint32_t tag) { return read_feature(model.at(2).text(tag)); }

constexpr std::uint32_t kInput = 1;
constexpr std::uint32_t kOutput = 10;

Proto model_with(const InputLengths& lengths, int release = 18) {
  return Proto(serialize_model(model_function(lengths.kind != InputLengths::Kind::kFixed), lengths,
                               deployment_target(release), kNotes));
}

TEST(CoreMLModel, HasTheTargetsVersions) {
  for (const auto& [release, specification, opset] :
       {std::tuple(16, 7, "CoreML6"), std::tuple(17, 8, "CoreML7"), std::tuple(18, 9, "CoreML8")}) {
    const Proto model = model_with(parse_input_lengths("32"), release);
    EXPECT_EQ(model.tags(), (std::set<std::uint32_t>{1, 2, 502}));
    EXPECT_EQ(model.number(1), specification);
    EXPECT_EQ(testing::read_program(model.text(502)).opset, opset);
  }
}

TEST(CoreMLModel, DescribesItself) {
  const Proto metadata = model_with(parse_input_lengths("32")).at(2).at(100);
  EXPECT_EQ(metadata.text(1), "a model");
  EXPECT_EQ(metadata.entries(100), (std::vector<std::pair<std::string, std::string>>{{"a", "1"}, {"b", "2"}}));
}

TEST(CoreMLModel, TakesOneLength) {
  const Proto model = model_with(parse_input_lengths("32"));
  const Array input = only_feature(model, kInput);
  EXPECT_EQ(input.name, "input_ids");
  EXPECT_EQ(input.shape, (Sizes{1, 32}));
  EXPECT_EQ(input.dtype, kInt);
  EXPECT_EQ(input.message.tags(), (std::set<std::uint32_t>{1, 2}));
  const Array output = only_feature(model, kOutput);
  EXPECT_EQ(output.name, "logits");
  EXPECT_EQ(output.shape, (Sizes{1, 32, 5}));
  EXPECT_EQ(output.dtype, kSingle);
}

TEST(CoreMLModel, EnumeratesLengths) {
  const Proto model = model_with(parse_input_lengths("32,8,16"));
  const Array input = only_feature(model, kInput);
  EXPECT_EQ(input.shape, (Sizes{1, 8}));  // the least is the default
  EXPECT_EQ(input.message.tags(), (std::set<std::uint32_t>{1, 2, 21}));
  std::vector<Sizes> shapes;
  for (const std::string& shape : input.message.at(21).all(1)) {
    shapes.push_back(Proto(shape).numbers(1));
  }
  EXPECT_EQ(shapes, (std::vector<Sizes>{{1, 8}, {1, 16}, {1, 32}}));
  const Array output = only_feature(model, kOutput);
  EXPECT_TRUE(output.shape.empty());  // follows from the input's
  EXPECT_EQ(output.message.tags(), std::set<std::uint32_t>{2});
}

TEST(CoreMLModel, TakesARangeOfLengths) {
  const Proto model = model_with(parse_input_lengths("8..32"));
  const Array input = only_feature(model, kInput);
  EXPECT_EQ(input.shape, (Sizes{1, 8}));
  EXPECT_EQ(input.message.tags(), (std::set<std::uint32_t>{1, 2, 31}));
  std::vector<std::pair<std::int64_t, std::int64_t>> ranges;
  for (const std::string& size : input.message.at(31).all(1)) {
    ranges.emplace_back(Proto(size).number(1), Proto(size).number(2));
  }
  EXPECT_EQ(ranges, (std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {8, 32}}));
  EXPECT_TRUE(only_feature(model, kOutput).shape.empty());
}

TEST(CoreMLModel, NamesTheTypesOfArrays) {
  for (const auto& [dtype, number] : {std::pair(MilDtype::kFloat16, kHalf), std::pair(MilDtype::kFloat32, kSingle),
                                      std::pair(MilDtype::kInt32, kInt)}) {
    const MilFunction function = function_of("x", dtype, "y", dtype, false);
    const Proto model(serialize_model(function, parse_input_lengths("32"), deployment_target(18), {}));
    EXPECT_EQ(only_feature(model, kInput).dtype, number);
    EXPECT_EQ(only_feature(model, kOutput).dtype, number);
  }
}

TEST(CoreMLPipeline, HoldsItsModels) {
  const MilFunction first = function_of("input_ids", MilDtype::kInt32, "between", MilDtype::kFloat16, true);
  const MilFunction second = function_of("between", MilDtype::kFloat16, "logits", MilDtype::kFloat32, true);
  const InputLengths lengths = parse_input_lengths("8..32");
  const DeploymentTarget& target = deployment_target(17);
  const Proto model(serialize_pipeline({&first, &second}, lengths, target, kNotes));
  EXPECT_EQ(model.tags(), (std::set<std::uint32_t>{1, 2, 202}));
  EXPECT_EQ(model.number(1), 8);
  EXPECT_EQ(only_feature(model, kInput).name, "input_ids");
  EXPECT_EQ(only_feature(model, kOutput).name, "logits");
  EXPECT_EQ(model.at(2).at(100).text(1), "a model");
  const Proto pipeline = model.at(202);
  EXPECT_EQ(pipeline.all(2), (std::vector<std::string>{"part_0", "part_1"}));
  const std::vector<std::string> parts = pipeline.all(1);
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_EQ(parts[0], serialize_model(first, lengths, target, {}));
  EXPECT_EQ(parts[1], serialize_model(second, lengths, target, {}));
  EXPECT_EQ(only_feature(Proto(parts[1]), kInput).name, only_feature(Proto(parts[0]), kOutput).name);
}

TEST(CoreMLManifest, NamesTheModelAndTheWeights) {
  const Json manifest = Json::parse(package_manifest("bytes of a model"));
  EXPECT_EQ(manifest.at("fileFormatVersion"), "1.0.0");
  const Json& items = manifest.at("itemInfoEntries");
  ASSERT_EQ(items.size(), 2U);
  const Json& root = items.at(manifest.at("rootModelIdentifier").get<std::string>());
  EXPECT_EQ(root.at("path"), "com.apple.CoreML/model.mlmodel");
  EXPECT_EQ(root.at("name"), "model.mlmodel");
  const std::regex uuid("[0-9A-F]{8}-[0-9A-F]{4}-8[0-9A-F]{3}-[89AB][0-9A-F]{3}-[0-9A-F]{12}");
  int weights = 0;
  for (const auto& [identifier, item] : items.items()) {
    EXPECT_TRUE(std::regex_match(identifier, uuid)) << identifier;
    EXPECT_EQ(item.at("author"), "com.apple.CoreML");
    EXPECT_TRUE(item.at("description").is_string());
    weights += item.at("path") == "com.apple.CoreML/weights" ? 1 : 0;
  }
  EXPECT_EQ(weights, 1);
  EXPECT_EQ(std::string("Data/") + root.at("path").get<std::string>(), kModelFile);
  EXPECT_EQ(std::string(kWeightsFolder), "Data/com.apple.CoreML/weights");
  EXPECT_EQ(std::string(kManifestFile), "Manifest.json");
}

TEST(CoreMLManifest, FollowsFromTheModel) {
  EXPECT_EQ(package_manifest("one"), package_manifest("one"));
  EXPECT_NE(package_manifest("one"), package_manifest("two"));
  EXPECT_EQ(package_manifest("one").size(), package_manifest("two and more").size());
}

TEST(CoreMLPackages, AreKnownByTheirManifestAndData) {
  const testing::TemporaryFolder folder;
  EXPECT_FALSE(is_package(folder.path()));
  EXPECT_FALSE(is_package(folder / "none"));
  testing::write_file(folder / "Manifest.json", "{}");
  EXPECT_FALSE(is_package(folder.path()));
  testing::write_file(folder / "Data", "a file");
  EXPECT_FALSE(is_package(folder.path()));
  std::filesystem::remove(folder / "Data");
  std::filesystem::create_directory(folder / "Data");
  EXPECT_TRUE(is_package(folder.path()));
  std::filesystem::remove(folder / "Manifest.json");
  EXPECT_FALSE(is_package(folder.path()));
  std::filesystem::create_directory(folder / "Manifest.json");
  EXPECT_FALSE(is_package(folder.path()));
  EXPECT_FALSE(is_package("/proc/self/exe"));
}

}  // namespace
}  // namespace diffulex_edge::coreml
