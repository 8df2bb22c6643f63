// What packages hold is read, and what is broken in them is refused.

#include "backends/coreml/package_reader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <protozero/pbf_writer.hpp>
#include <span>
#include <stdexcept>

#include "backends/coreml/message_fields.h"
#include "backends/coreml/model_reader.h"
#include "backends/coreml/package.h"
#include "backends/coreml/weight_file.h"
#include "diffulex_edge/inspection.h"
#include "quant/affine_scale.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace diffulex_edge::coreml {
namespace {

namespace fs = std::filesystem;
using protozero::pbf_writer;
using Sizes = std::vector<std::int64_t>;

constexpr const char* kWeightFile = "@model_path/weights/weight.bin";
constexpr const char* kWeightPath = "Data/com.apple.CoreML/weights/weight.bin";

// A weight file under construction; what is added has the bytes 1, 2, 3...
class WeightFile {
 public:
  BlobReference add(std::uint32_t type, std::size_t bytes) {
    BlobMetadata metadata;
    metadata.type = type;
    metadata.bytes = bytes;
    return add(metadata);
  }
  BlobReference add(BlobMetadata metadata) {
    bytes_.resize((bytes_.size() + 63) / 64 * 64);
    const auto offset = static_cast<std::int64_t>(bytes_.size());
    metadata.data_offset = bytes_.size() + sizeof(metadata);
    bytes_.append(reinterpret_cast<const char*>(&metadata), sizeof(metadata));
    for (std::uint64_t i = 0; i < metadata.bytes; ++i) {
      bytes_ += static_cast<char>(i + 1);
    }
    ++head_.count;
    return {.file = kWeightFile, .offset = offset};
  }
  std::string bytes() const {
    std::string result = bytes_;
    std::memcpy(result.data(), &head_, sizeof(head_));
    return result;
  }

 private:
  FileHead head_;
  std::string bytes_ = std::string(sizeof(FileHead), '\0');
};

MilType fixed(MilDtype dtype, const Sizes& sizes) { return {.dtype = dtype, .shape = static_shape(sizes)}; }

InputLengths range(std::int64_t least, std::int64_t most) {
  return {.kind = InputLengths::Kind::kRange, .lengths = {least, most}};
}

const InspectedTensor& find(const PackageContents& contents, const std::string& name) {
  const auto found = std::ranges::find(contents.weights, name, &InspectedTensor::name);
  if (found == contents.weights.end()) {
    throw std::runtime_error("no weight " + name);
  }
  return *found;
}

// A program with a weight in every form; each is an operation's input.
MilFunction make_program(WeightFile& weights) {
  MilFunction function;
  const auto ids =
      function.input("ids", {.dtype = MilDtype::kInt32, .shape = {{.value = 1}, {.value = 9, .is_sequence = true}}});
  const Sizes sizes = {4, 8};
  const MilType half = fixed(MilDtype::kFloat16, sizes);
  const auto blob = [](MilDtype dtype, const Sizes& shape, BlobReference place) {
    return blob_literal(dtype, shape, std::move(place));
  };
  std::vector<Id> made;
  made.push_back(function.constant(blob(MilDtype::kFloat16, sizes, weights.add(kBlobFloat16, 64)), "half"));
  made.push_back(function.constant(blob(MilDtype::kFloat32, {3}, weights.add(kBlobFloat32, 12)), "single"));
  const auto blockwise = [&](const char* name, MilDtype dtype, std::uint32_t type, std::size_t bytes, Sizes scales) {
    const auto scale_bytes = static_cast<std::size_t>(2 * scales[0] * scales[1]);
    made.push_back(
        function.add_constexpr("constexpr_blockwise_shift_scale",
                               {{"data", blob(dtype, sizes, weights.add(type, bytes))},
                                {"scale", blob(MilDtype::kFloat16, scales, weights.add(kBlobFloat16, scale_bytes))}},
                               false, half, name));
  };
  blockwise("channels", MilDtype::kInt8, kBlobInt8, 32, {4, 1});
  blockwise("groups", MilDtype::kInt4, kBlobInt4, 16, {4, 2});
  made.push_back(function.add_constexpr("constexpr_affine_dequantize",
                                        {{"quantized_data", blob(MilDtype::kInt8, sizes, weights.add(kBlobInt8, 32))},
                                         {"zero_point", int8_literal(0)},
                                         {"scale", blob(MilDtype::kFloat16, {4}, weights.add(kBlobFloat16, 8))},
                                         {"axis", int_literal(0)}},
                                        true, half, "affine"));
  made.push_back(
      function.add_constexpr("constexpr_lut_to_dense",
                             {{"indices", blob(MilDtype::kUint4, sizes, weights.add(kBlobUint4, 16))},
                              {"lut", blob(MilDtype::kFloat16, {2, 1, 16, 1}, weights.add(kBlobFloat16, 64))}},
                             false, half, "palette"));
  made.push_back(function.add_constexpr("constexpr_lut_to_dense",
                                        {{"indices", blob(MilDtype::kUint8, {16}, weights.add(kBlobUint8, 16))},
                                         {"lut", blob(MilDtype::kFloat16, {16}, weights.add(kBlobFloat16, 32))},
                                         {"shape", uint32s_literal(sizes)}},
                                        true, half, "old_palette"));
  made.push_back(function.add_constexpr("constexpr_cast",
                                        {{"source_val", blob(MilDtype::kFloat16, sizes, weights.add(kBlobFloat16, 64))},
                                         {"output_dtype", string_literal("fp32")}},
                                        true, fixed(MilDtype::kFloat32, sizes), "cast"));
  made.push_back(ids);
  function.output(function.add("concat", {{"values", made}}, function.type(ids)), "out");
  return function;
}

ModelNotes notes() { return {.description = "a model", .user_defined = {{"key", "value"}}}; }

class PackageReaderTest : public ::testing::Test {
 protected:
  fs::path write(const std::string& name, const std::string& model, const std::string& weights) {
    fs::path package = folder_ / name;
    fs::create_directories(package / kWeightsFolder);
    testing::write_file(package / kManifestFile, package_manifest(model));
    testing::write_file(package / kModelFile, model);
    testing::write_file(package / kWeightPath, weights);
    return package;
  }
  // A package with everything.
  fs::path write() {
    WeightFile weights;
    const MilFunction function = make_program(weights);
    model_ = serialize_model(function, range(1, 9), deployment_target(18), notes());
    weights_ = weights.bytes();
    return write("x.mlpackage", model_, weights_);
  }
  // A package with the one constant `literal`.
  fs::path write_constant(MilLiteral literal, const std::string& weights) {
    MilFunction function;
    function.output(function.constant(std::move(literal), "w"), "out");
    return write("x.mlpackage", serialize_model(function, {.lengths = {1}}, deployment_target(18), {}), weights);
  }
  static void refuses(const fs::path& package, std::initializer_list<std::string> words) {
    testing::expect_error(ErrorCode::kBadFile, words, [&] { inspect(package); });
  }

  testing::TemporaryFolder folder_;
  std::string model_;
  std::string weights_;
};

TEST_F(PackageReaderTest, ShowsEveryFormOfWeights) {
  const PackageContents contents = read_package(write());
  struct Expected {
    std::string name;
    std::string type;
    Sizes shape;
    std::int64_t group = 0;
    std::int64_t bytes = 0;
  };
  const std::vector<Expected> expected = {
      {.name = "half", .type = "f16", .shape = {4, 8}, .bytes = 64},
      {.name = "single", .type = "f32", .shape = {3}, .bytes = 12},
      {.name = "channels", .type = "i8", .shape = {4, 8}, .bytes = 32},
      {.name = "channels_scale", .type = "f16", .shape = {4, 1}, .bytes = 8},
      {.name = "groups", .type = "i4", .shape = {4, 8}, .group = 4, .bytes = 16},
      {.name = "groups_scale", .type = "f16", .shape = {4, 2}, .bytes = 16},
      {.name = "affine", .type = "i8", .shape = {4, 8}, .bytes = 32},
      {.name = "affine_scale", .type = "f16", .shape = {4}, .bytes = 8},
      {.name = "palette", .type = "palette4", .shape = {4, 8}, .group = 2, .bytes = 16},
      {.name = "palette_lut", .type = "f16", .shape = {2, 1, 16, 1}, .bytes = 64},
      {.name = "old_palette", .type = "palette4", .shape = {4, 8}, .bytes = 16},
      {.name = "old_palette_lut", .type = "f16", .shape = {16}, .bytes = 32},
      {.name = "cast", .type = "f16", .shape = {4, 8}, .bytes = 64},
  };
  EXPECT_EQ(contents.weights.size(), expected.size());
  for (const Expected& wanted : expected) {
    const InspectedTensor& found = find(contents, wanted.name);
    EXPECT_EQ(found.dtype, wanted.type) << wanted.name;
    EXPECT_EQ(found.shape, wanted.shape) << wanted.name;
    EXPECT_EQ(found.group_size, wanted.group) << wanted.name;
    EXPECT_EQ(found.bytes, wanted.bytes) << wanted.name;
    EXPECT_EQ(found.file, kWeightPath);
    EXPECT_EQ(weights_[static_cast<std::size_t>(found.offset)], '\1');
  }
}

TEST_F(PackageReaderTest, ShowsWhatTheModelSaysOfItself) {
  const Inspection inspection = inspect(write());
  EXPECT_EQ(inspection.kind, "coreml_package");
  EXPECT_EQ(inspection.parameters(), 0);
  ASSERT_EQ(inspection.models.size(), 1U);
  const InspectedModel& model = inspection.models[0];
  EXPECT_EQ(model.type, "mlProgram");
  EXPECT_EQ(model.specification_version, 9);
  EXPECT_EQ(model.description, "a model");
  EXPECT_EQ(model.metadata.at("key"), "value");
  ASSERT_EQ(model.functions.size(), 1U);
  EXPECT_EQ(model.functions[0].name, "main");
  EXPECT_EQ(model.functions[0].opset, "CoreML8");
  EXPECT_EQ(model.functions[0].operations.at("const"), 2);
  EXPECT_EQ(model.functions[0].operations.at("constexpr_lut_to_dense"), 2);
  EXPECT_EQ(model.functions[0].operations.at("concat"), 1);
  ASSERT_EQ(model.features.inputs.size(), 1U);
  const InspectedFeature& input = model.features.inputs[0];
  EXPECT_EQ(input.name, "ids");
  EXPECT_EQ(input.dtype, "i32");
  EXPECT_EQ(input.shape, (Sizes{1, 1}));
  EXPECT_EQ(input.shape_range, (std::vector<std::pair<std::int64_t, std::int64_t>>{{1, 1}, {1, 9}}));
  ASSERT_EQ(model.features.outputs.size(), 1U);
  EXPECT_EQ(model.features.outputs[0].name, "out");
  std::int64_t bytes = 0;
  for (const InspectedFile& file : inspection.files) {
    EXPECT_EQ(file.bytes, static_cast<std::int64_t>(fs::file_size(folder_ / "x.mlpackage" / file.path)));
    bytes += file.bytes;
  }
  EXPECT_EQ(inspection.files.size(), 3U);
  EXPECT_EQ(inspection.file_bytes, bytes);
  EXPECT_EQ(inspection.tensors[0].sha256.size(), 64U);
  EXPECT_TRUE(inspect(folder_ / "x.mlpackage", {.hashes = false}).tensors[0].sha256.empty());
}

TEST_F(PackageReaderTest, ShowsEnumeratedAndFixedShapes) {
  MilFunction function;
  const auto x = function.input("x", {.dtype = MilDtype::kFloat32, .shape = {{.value = 9, .is_sequence = true}}});
  const auto y = function.input("y", fixed(MilDtype::kFloat16, {2, 3}));
  function.output(function.add("add", {{"x", {x}}, {"y", {y}}}, function.type(x)), "out");
  const InputLengths lengths{.kind = InputLengths::Kind::kEnumerated, .lengths = {3, 9}};
  const PackageContents contents =
      read_package(write("x.mlpackage", serialize_model(function, lengths, deployment_target(16), {}), "unused"));
  const InspectedFeatures& features = contents.models[0].features;
  EXPECT_EQ(features.inputs[0].enumerated_shapes, (std::vector<Sizes>{{3}, {9}}));
  EXPECT_EQ(features.inputs[1].dtype, "f16");
  EXPECT_EQ(features.inputs[1].shape, (Sizes{2, 3}));
  EXPECT_TRUE(features.inputs[1].enumerated_shapes.empty() && features.inputs[1].shape_range.empty());
  EXPECT_TRUE(features.outputs[0].shape.empty());
  EXPECT_EQ(contents.files.size(), 2U) << "a weight file that no program uses is none of the package's";
}

TEST_F(PackageReaderTest, ShowsPipelinesAndFoldersOfPackages) {
  WeightFile weights;
  MilFunction first;
  const auto x = first.input("x", fixed(MilDtype::kFloat32, {4}));
  const auto w = first.constant(blob_literal(MilDtype::kFloat32, Sizes{4}, weights.add(kBlobFloat32, 16)), "w");
  first.output(first.add("add", {{"x", {x}}, {"y", {w}}}, first.type(x)), "middle");
  MilFunction second;
  const auto y = second.input("middle", fixed(MilDtype::kFloat32, {4}));
  second.output(second.add("exp", {{"x", {y}}}, second.type(y)), "out");
  const InputLengths lengths{.lengths = {1}};
  const DeploymentTarget& target = deployment_target(17);

  const Inspection pipeline =
      inspect(write("p.mlpackage", serialize_pipeline({&first, &second}, lengths, target, notes()), weights.bytes()));
  EXPECT_EQ(pipeline.kind, "coreml_pipeline");
  EXPECT_EQ(pipeline.models[0].type, "pipeline");
  EXPECT_EQ(pipeline.models[0].features.outputs[0].name, "out");
  ASSERT_EQ(pipeline.models[0].models.size(), 2U);
  EXPECT_EQ(pipeline.models[0].models[1].name, "part_1");
  EXPECT_EQ(pipeline.models[0].models[1].functions[0].operations.at("exp"), 1);
  EXPECT_EQ(pipeline.tensors.size(), 1U);

  write("parts/a.mlpackage", serialize_model(first, lengths, target, {}), weights.bytes());
  write("parts/b.mlpackage", serialize_model(second, lengths, target, {}), weights.bytes());
  nlohmann::json manifest{{"format", kChunksFormat}, {"version", 1}};
  manifest["parts"] = {{{"package", "a.mlpackage"}, {"input", "x"}, {"output", "middle"}},
                       {{"package", "b.mlpackage"}, {"input", "middle"}, {"output", "out"}}};
  testing::write_file(folder_ / "parts/manifest.json", manifest.dump());
  const Inspection parts = inspect(folder_ / "parts");
  EXPECT_EQ(parts.kind, "coreml_chunks");
  ASSERT_EQ(parts.models.size(), 2U);
  EXPECT_EQ(parts.models[1].name, "b.mlpackage");
  EXPECT_EQ(parts.tensors[0].file, std::string("a.mlpackage/") + kWeightPath);
  EXPECT_EQ(parts.tensors[0].sha256, pipeline.tensors[0].sha256);

  const auto refuses_parts = [&](const nlohmann::json& bad, std::initializer_list<std::string> words) {
    testing::write_file(folder_ / "parts/manifest.json", bad.dump());
    refuses(folder_ / "parts", words);
  };
  const auto changed = [&](std::size_t part, const char* key, const char* value) {
    nlohmann::json result = manifest;
    result["parts"][part][key] = value;
    return result;
  };
  refuses_parts(changed(1, "package", "a.mlpackage"), {"a.mlpackage", "twice"});
  refuses_parts(changed(1, "package", "../p.mlpackage"), {"p.mlpackage", "not in the folder"});
  refuses_parts(changed(1, "package", "absent"), {"absent"});
  refuses_parts(changed(1, "input", "x"), {"does not take x"});
  refuses_parts(changed(0, "output", "y"), {"does not give y"});
  refuses_parts({{"format", kChunksFormat}, {"version", 2}}, {"version 1"});
  refuses_parts({{"format", kChunksFormat}, {"version", 1}, {"parts", 7}}, {"no list of parts"});
  refuses_parts(nlohmann::json::array(), {"manifest.json", "format"});
}

TEST_F(PackageReaderTest, BytesThatSeveralWeightsShareAreNoContradiction) {
  WeightFile weights;
  const BlobReference place = weights.add(kBlobFloat32, 16);
  MilFunction function;
  const auto first = function.constant(blob_literal(MilDtype::kFloat32, Sizes{4}, place), "w");
  const auto second = function.constant(blob_literal(MilDtype::kFloat32, Sizes{2, 2}, place), "w");
  function.output(function.add("add", {{"x", {first}}, {"y", {second}}}, function.type(first)), "out");
  const Inspection inspection = inspect(
      write("x.mlpackage", serialize_model(function, {.lengths = {1}}, deployment_target(16), {}), weights.bytes()));
  ASSERT_EQ(inspection.tensors.size(), 2U);
  EXPECT_EQ(inspection.tensors[0].sha256, inspection.tensors[1].sha256);
}

TEST_F(PackageReaderTest, RefusesWeightsThatAreNotThere) {
  const MilLiteral four = blob_literal(MilDtype::kFloat32, Sizes{4}, {.file = kWeightFile, .offset = 64});
  const auto one = [](const auto& edit) {
    WeightFile weights;
    BlobMetadata metadata;
    metadata.type = kBlobFloat32;
    metadata.bytes = 16;
    edit(metadata);
    weights.add(metadata);
    return weights.bytes();
  };
  const auto at = [](std::int64_t offset) {
    return blob_literal(MilDtype::kFloat32, Sizes{4}, {.file = kWeightFile, .offset = offset});
  };
  const std::string good = one([](BlobMetadata&) {});
  EXPECT_EQ(read_package(write_constant(four, good)).weights.size(), 1U);
  refuses(write_constant(four, good.substr(0, good.size() - 1)), {"weight.bin", "143 do not have"});
  refuses(write_constant(four, good.substr(0, 100)), {"weight.bin", "outside of the file's 100 bytes"});
  refuses(write_constant(four, good.substr(0, 63)), {"weight.bin", "less than the head"});
  refuses(write_constant(four, ""), {"weight.bin", "empty"});
  refuses(write_constant(four, std::string(good.size(), '\0')), {"weight.bin", "version 2"});
  refuses(write_constant(four, one([](BlobMetadata& m) { m.sentinel = 0xDEADBEEE; })), {"the mark of an entry"});
  refuses(write_constant(four, one([](BlobMetadata& m) { m.type = kBlobFloat16; })),
          {"of type 1", "of type 2", "'out'"});
  refuses(write_constant(four, one([](BlobMetadata& m) { m.bytes = 15; })), {"120 bits", "128"});
  refuses(write_constant(four, one([](BlobMetadata& m) { m.padding_bits = 4; })), {"124 bits"});
  refuses(write_constant(four, one([](BlobMetadata& m) { m.padding_bits = UINT64_MAX; })), {"unused bits"});
  const auto patched = [&](std::size_t place, std::uint64_t value) {
    std::string result = good;
    std::memcpy(result.data() + place, &value, sizeof(value));
    return result;
  };
  for (const std::uint64_t lie :
       {std::uint64_t{1} << 63U, UINT64_MAX, UINT64_MAX - 63, std::uint64_t{145}, std::uint64_t{129}}) {
    refuses(write_constant(four, patched(64 + 8, lie)), {"144 do not have"});
    refuses(write_constant(four, patched(64 + 16, lie)), {"144 do not have"});
  }
  for (const std::uint64_t inside_the_head : {0U, 1U, 63U}) {
    refuses(write_constant(four, patched(64 + 16, inside_the_head)), {"144 do not have"});
  }
  for (const std::int64_t offset : {std::int64_t{0}, std::int64_t{63}, std::int64_t{81}, std::int64_t{144}, INT64_MAX,
                                    INT64_MIN, std::int64_t{-1}}) {
    refuses(write_constant(at(offset), good), {"outside of the file's 144 bytes"});
  }
  refuses(write_constant(blob_literal(MilDtype::kInt32, Sizes{4}, {.file = kWeightFile, .offset = 64}), good),
          {"of type 14"});
  refuses(write_constant(blob_literal(MilDtype::kBool, Sizes{4}, {.file = kWeightFile, .offset = 64}), good),
          {"'out'", "do not have"});
  for (const Sizes& sizes : {Sizes{INT64_MAX, 4}, Sizes{INT64_MAX, 1}, Sizes(200, 2)}) {
    refuses(write_constant(blob_literal(MilDtype::kFloat32, sizes, {.file = kWeightFile, .offset = 64}), good),
            {"'out'"});
  }
  for (const char* file : {"", "weight.bin", "@model_path/", "@model_path/../x", "@model_path//etc/passwd",
                           "@model_path/weights/./weight.bin", "@model_path/weights/../model.mlmodel"}) {
    refuses(write_constant(blob_literal(MilDtype::kFloat32, Sizes{4}, {.file = file, .offset = 64}), good),
            {"not one of the package"});
  }
  refuses(write_constant(
              blob_literal(MilDtype::kFloat32, Sizes{4}, {.file = "@model_path/weights/absent", .offset = 64}), good),
          {"absent"});
}

TEST_F(PackageReaderTest, RefusesWeightsThatShareBytes) {
  WeightFile weights;
  MilFunction function;
  const auto constant = [&] {
    return function.constant(blob_literal(MilDtype::kFloat32, Sizes{4}, weights.add(kBlobFloat32, 16)), "w");
  };
  const auto first = constant();
  const auto second = constant();
  function.output(function.add("add", {{"x", {first}}, {"y", {second}}}, function.type(first)), "out");
  const std::string model = serialize_model(function, {.lengths = {1}}, deployment_target(16), {});
  std::string bytes = weights.bytes();
  EXPECT_EQ(read_package(write("x.mlpackage", model, bytes)).weights.size(), 2U);
  const std::uint64_t first_data = 64 + sizeof(BlobMetadata);
  std::memcpy(bytes.data() + first_data + 64 + 16, &first_data, sizeof(first_data));
  refuses(write("x.mlpackage", model, bytes), {"weight.bin", "share bytes"});
}

TEST_F(PackageReaderTest, RefusesContradictoryCompressedWeights) {
  const auto refuses_weight = [&](const char* operation, const MilFunction::Literals& parameters, const Sizes& result,
                                  const std::string& weights, std::initializer_list<std::string> words) {
    MilFunction function;
    function.output(function.add_constexpr(operation, parameters, false, fixed(MilDtype::kFloat16, result), "w"),
                    "out");
    refuses(write("x.mlpackage", serialize_model(function, {.lengths = {1}}, deployment_target(18), {}), weights),
            words);
  };
  WeightFile weights;
  const auto data = blob_literal(MilDtype::kInt8, Sizes{4, 8}, weights.add(kBlobInt8, 32));
  const auto scale = blob_literal(MilDtype::kFloat16, Sizes{4, 3}, weights.add(kBlobFloat16, 24));
  const auto indices = blob_literal(MilDtype::kUint4, Sizes{4, 8}, weights.add(kBlobUint4, 16));
  const auto table = blob_literal(MilDtype::kFloat16, Sizes{1, 1, 12, 1}, weights.add(kBlobFloat16, 24));
  const auto large = blob_literal(MilDtype::kFloat16, Sizes{1, 1, 64, 1}, weights.add(kBlobFloat16, 128));
  const std::string bytes = weights.bytes();
  refuses_weight("constexpr_blockwise_shift_scale", {{"data", data}, {"scale", scale}}, {4, 8}, bytes,
                 {"do not divide"});
  refuses_weight("constexpr_blockwise_shift_scale", {{"data", data}}, {4, 9}, bytes, {"32 elements", "36"});
  refuses_weight("constexpr_lut_to_dense", {{"indices", indices}}, {4, 8}, bytes, {"is missing"});
  refuses_weight("constexpr_lut_to_dense", {{"indices", indices}, {"lut", table}}, {4, 8}, bytes, {"12 values"});
  refuses_weight("constexpr_lut_to_dense", {{"indices", indices}, {"lut", large}}, {4, 8}, bytes, {"128 bits", "192"});
}

TEST_F(PackageReaderTest, RefusesBrokenManifests) {
  const fs::path package = write();
  const std::string good = testing::read_file(package / kManifestFile);
  const auto manifest = [&](const auto& edit) {
    nlohmann::json document = nlohmann::json::parse(good);
    edit(document);
    return document.dump();
  };
  const auto path = [&](const nlohmann::json& value) {
    return manifest(
        [&](nlohmann::json& m) { m["itemInfoEntries"][m["rootModelIdentifier"].get<std::string>()]["path"] = value; });
  };
  const std::vector<std::string> broken = {
      "",
      "{",
      "[]",
      "7",
      "{}",
      std::string(100, '['),
      manifest([](nlohmann::json& m) { m["rootModelIdentifier"] = "absent"; }),
      manifest([](nlohmann::json& m) { m["rootModelIdentifier"] = 7; }),
      manifest([](nlohmann::json& m) { m["itemInfoEntries"] = nlohmann::json::array(); }),
      manifest([](nlohmann::json& m) { m.erase("itemInfoEntries"); }),
      path(7),
      path("../../x"),
      path("/etc/passwd"),
      path(""),
      path("com.apple.CoreML"),
      path("absent"),
  };
  for (const std::string& bytes : broken) {
    testing::write_file(package / kManifestFile, bytes);
    refuses(package, {"x.mlpackage"});
  }
  fs::remove(package / kManifestFile);
  refuses(package, {"Manifest.json"});
}

TEST_F(PackageReaderTest, RefusesModelsThatAreNone) {
  const auto refuses_model = [&](const std::string& model, std::initializer_list<std::string> words) {
    refuses(write("x.mlpackage", model, "unused"), words);
  };
  refuses_model("hello", {"model.mlmodel"});
  refuses_model(std::string("\x08\x09", 2), {"holds no model"});
  // A message in a message, and so on.
  const auto nested = [](int depth, const auto& wrap) {
    std::string message;
    for (int i = 0; i < depth; ++i) {
      message = wrap(std::move(message));
    }
    return message;
  };
  const auto pipeline = [](const std::string& inner) {
    std::string message;
    pbf_writer writer(message);
    writer.add_int32(field::kModelSpecification, 9);
    pbf_writer parts(writer, field::kModelPipeline);
    parts.add_message(field::kPipelineModels, inner);
    return message;
  };
  refuses_model(nested(1000, pipeline), {"nested deeper"});
  const auto block = [](const std::string& inner) {
    std::string message;
    pbf_writer writer(message);
    pbf_writer operation(writer, field::kBlockOperations);
    operation.add_string(field::kOperationType, "while_loop");
    operation.add_message(field::kOperationBlocks, inner);
    return message;
  };
  const auto program = [](const std::string& opset, const std::string& content) {
    std::string message;
    pbf_writer writer(message);
    writer.add_int32(field::kModelSpecification, 9);
    pbf_writer model(writer, field::kModelProgram);
    pbf_writer entry(model, field::kProgramFunctions);
    entry.add_string(field::kMapKey, "main");
    pbf_writer function(entry, field::kMapValue);
    function.add_string(field::kFunctionOpset, opset);
    pbf_writer blocks(function, field::kFunctionBlocks);
    blocks.add_string(field::kMapKey, "CoreML8");
    blocks.add_message(field::kMapValue, content);
    return message;
  };
  refuses_model(program("CoreML8", nested(1000, block)), {"nested deeper"});
  refuses_model(program("CoreML7", ""), {"no operations for its opset 'CoreML7'"});
  const PackageContents loops = read_package(write("x.mlpackage", program("CoreML8", nested(5, block)), "unused"));
  EXPECT_EQ(loops.models[0].functions[0].operations.at("while_loop"), 5);
}

TEST_F(PackageReaderTest, KindsOfModelsThatAreNoProgramsAreNamed) {
  std::string message;
  {
    pbf_writer writer(message);
    writer.add_int32(field::kModelSpecification, 4);
    writer.add_message(500, std::string());
  }
  EXPECT_EQ(read_package(write("x.mlpackage", message, "unused")).models[0].type, "neuralNetwork");
}

// Whether it is read; what is not is refused with Error{kBadFile}.
template <typename Read>
bool is_read(Read&& read) {
  try {
    read();
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kBadFile) << error.what();
    return false;
  }
}

std::string flip(std::string bytes, std::size_t bit) {
  bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
  return bytes;
}

TEST_F(PackageReaderTest, CutAndFlippedModelsNeverCrash) {
  write();
  const auto attempt = [](const std::string& model) {
    return is_read([&] { read_model(std::as_bytes(std::span(model)), "x"); });
  };
  for (std::size_t size = 0; size < model_.size(); ++size) {
    EXPECT_FALSE(attempt(model_.substr(0, size))) << size;
  }
  for (std::size_t bit = 0; bit < 8 * model_.size(); ++bit) {
    attempt(flip(model_, bit));
  }
  EXPECT_TRUE(attempt(model_));
}

TEST_F(PackageReaderTest, FlippedMetadataOfWeightsNeverCrash) {
  const fs::path package = write();
  for (std::size_t bit = 0; bit < 8 * (sizeof(FileHead) + sizeof(BlobMetadata)); bit += 3) {
    testing::write_file(package / kWeightPath, flip(weights_, bit));
    is_read([&] { read_package(package); });
  }
}

// --- Payloads of ExecuTorch's delegate.

struct Node {
  std::string name;
  int kind = 0;
  std::size_t offset = 0;
  std::size_t size = 0;
  std::map<std::string, std::int64_t> children;
};

std::string payload_of(const std::string& data, const std::vector<Node>& nodes, const std::string& behind = {}) {
  nlohmann::json list = nlohmann::json::array();
  for (const Node& node : nodes) {
    list.push_back({{"children", node.children},
                    {"dataRegion", {{"offset", node.offset}, {"size", node.size}}},
                    {"kind", node.kind},
                    {"name", node.name}});
  }
  std::string trailer = nlohmann::json{{"nodes", list}}.dump();
  std::ranges::reverse(trailer);
  return data + trailer + behind;
}

PackageContents read(const std::string& payload) { return read_payload(std::as_bytes(std::span(payload)), "x.pte"); }

void refuses_payload(const std::string& payload, std::initializer_list<std::string> words) {
  testing::expect_error(ErrorCode::kBadFile, words, [&] { read(payload); });
}

TEST(PayloadTest, ShowsItsFiles) {
  const std::vector<Node> nodes = {{.name = "a", .size = 3},
                                   {.name = "b \"{\\", .offset = 3, .size = 2},
                                   {.name = "folder", .kind = 1, .children = {{"b \"{\\", 1}}},
                                   {.name = "root", .kind = 1, .children = {{"a", 0}, {"folder", 2}}}};
  for (const std::string& behind : {std::string(), std::string(8226, '\0'), std::string(" \n")}) {
    const PackageContents contents = read(payload_of("01234", nodes, behind));
    ASSERT_EQ(contents.files.size(), 2U);
    EXPECT_EQ(contents.files[0].path, "a");
    EXPECT_EQ(contents.files[0].bytes, 3);
    EXPECT_EQ(contents.files[1].path, "folder/b \"{\\");
    EXPECT_TRUE(contents.models.empty());
  }
}

TEST(PayloadTest, RefusesBrokenDirectories) {
  const Node root{.name = "root", .kind = 1, .children = {{"a", 0}}};
  const auto with = [&](const Node& file) { return payload_of("01234", {file, root}); };
  refuses_payload("", {"no directory"});
  refuses_payload("{", {"no directory"});
  refuses_payload("}{", {"list of files"});
  refuses_payload(std::string(100'000, '{'), {"no directory"});
  refuses_payload(std::string(12'000'000, '}') + "{", {"list of files"});
  refuses_payload(payload_of("01234", {root}, "x"), {"no directory"});
  refuses_payload(with({.name = "a", .offset = 6}), {"beyond"});
  refuses_payload(with({.name = "a", .size = 6}), {"beyond"});
  refuses_payload(with({.name = "a", .offset = SIZE_MAX, .size = 2}), {"beyond"});
  refuses_payload(payload_of("", {root}), {"in no or in two folders"});
  refuses_payload(payload_of("", {{.name = "root", .kind = 1, .children = {{"a", -1}}}}), {"in no or in two"});
  const Node twice{.name = "root", .kind = 1, .children = {{"a", 0}, {"b", 0}}};
  refuses_payload(payload_of("01234", {{.name = "a", .size = 3}, twice}), {"in two folders"});
  for (const char* name : {"", ".", "..", "a/b", "../../etc"}) {
    refuses_payload(payload_of("", {{.name = name}, {.name = "root", .kind = 1, .children = {{name, 0}}}}), {"name"});
  }
  const Node both{.name = "root", .kind = 1, .children = {{"a", 0}, {"b", 1}}};
  refuses_payload(payload_of("01234", {{.name = "a", .size = 3}, {.name = "b", .offset = 2, .size = 3}, both}),
                  {"share bytes"});
  std::vector<Node> deep = {{.name = "n", .size = 1}};
  while (deep.size() < 1000) {
    deep.push_back({.name = "n", .kind = 1, .children = {{"n", static_cast<std::int64_t>(deep.size()) - 1}}});
  }
  refuses_payload(payload_of("0", deep), {"too many in each other"});
  refuses_payload(payload_of("", std::vector<Node>(5000, Node{.name = "n", .kind = 1})), {"list of files"});
}

TEST(PayloadTest, ReferencesNameTheirTarget) {
  const auto key_of = [](const std::string& payload) {
    return referenced_payload(std::as_bytes(std::span(payload)), "x.pte");
  };
  EXPECT_EQ(key_of(R"(CMJR{"version": 1, "key": "coreml_7", "functionName": "f"})"), "coreml_7");
  EXPECT_EQ(key_of("0123}{"), "");
  for (const char* broken : {"CMJR", "CMJR{", "CMJR{}", "CMJR[]", R"(CMJR{"key": 7})"}) {
    testing::expect_error(ErrorCode::kBadFile, {"x.pte"}, [&] { key_of(broken); });
  }
}

}  // namespace
}  // namespace diffulex_edge::coreml
