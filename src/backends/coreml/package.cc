#include "backends/coreml/package.h"

#include <algorithm>
#include <cctype>
#include <iterator>
#include <nlohmann/json.hpp>
#include <protozero/pbf_writer.hpp>
#include <set>
#include <span>

#include "backends/coreml/message_fields.h"
#include "core/json.h"
#include "core/sha256.h"

namespace diffulex_edge::coreml {
namespace {

using protozero::pbf_writer;

// ArrayFeatureType.ArrayDataType: kind in the upper 16 bits, size in the lower ones.
std::int32_t array_dtype(MilDtype dtype) {
  switch (dtype) {
    case MilDtype::kFloat16:
      return 65552;
    case MilDtype::kInt32:
      return 131104;
    default:
      return 65568;  // float32
  }
}

void add_sizes(pbf_writer& writer, protozero::pbf_tag_type tag, const std::vector<std::int64_t>& sizes) {
  writer.add_packed_int64(tag, sizes.begin(), sizes.end());
}

void add_flexible_shape(pbf_writer& array, const Shape& shape, const InputLengths& lengths) {
  if (lengths.kind == InputLengths::Kind::kEnumerated) {
    pbf_writer shapes(array, field::kArrayEnumerated);
    for (const std::int64_t length : lengths.lengths) {
      pbf_writer one(shapes, field::kEnumeratedShapes);
      add_sizes(one, field::kShapeSizes, sizes_at(shape, length));
    }
    return;
  }
  pbf_writer range(array, field::kArrayRange);
  for (const Dim& dim : shape) {
    pbf_writer size(range, field::kRangeSizes);
    size.add_uint64(field::kSizeLower,
                    static_cast<std::uint64_t>(dim.is_sequence ? lengths.lengths.front() : dim.value));
    size.add_int64(field::kSizeUpper, dim.is_sequence ? lengths.lengths.back() : dim.value);
  }
}

std::string serialize(const MilFunction::Feature& feature, const InputLengths& lengths, bool is_input) {
  const Shape& shape = feature.type.shape;
  const bool flexible = std::ranges::any_of(shape, &Dim::is_sequence);
  std::string result;
  pbf_writer writer(result);
  writer.add_string(field::kFeatureName, feature.name);
  pbf_writer type(writer, field::kFeatureType);
  pbf_writer array(type, field::kTypeMultiArray);
  if (is_input || !flexible) {
    // Where the length varies, this is the default: the least, since runtimes try it when they load the model.
    add_sizes(array, field::kArrayShape, sizes_at(shape, lengths.lengths.front()));
  }
  array.add_enum(field::kArrayDataType, array_dtype(feature.type.dtype));
  if (is_input && flexible) {
    add_flexible_shape(array, shape, lengths);
  }
  return result;
}

std::string serialize_state(const MilFunction::Feature& feature) {
  std::string result;
  pbf_writer writer(result);
  writer.add_string(field::kFeatureName, feature.name);
  pbf_writer type(writer, field::kFeatureType);
  pbf_writer state(type, field::kTypeState);
  pbf_writer array(state, field::kStateArray);
  add_sizes(array, field::kArrayShape, sizes_at(feature.type.shape, 0));
  array.add_enum(field::kArrayDataType, array_dtype(feature.type.dtype));
  return result;
}

std::string serialize_description(const std::vector<MilFunction::Feature>& inputs,
                                  const std::vector<MilFunction::Feature>& outputs,
                                  const std::vector<MilFunction::Feature>& states, const InputLengths& lengths,
                                  const ModelNotes& notes) {
  std::string result;
  pbf_writer writer(result);
  for (const MilFunction::Feature& feature : inputs) {
    writer.add_message(field::kDescriptionInput, serialize(feature, lengths, true));
  }
  for (const MilFunction::Feature& feature : outputs) {
    writer.add_message(field::kDescriptionOutput, serialize(feature, lengths, false));
  }
  for (const MilFunction::Feature& state : states) {
    writer.add_message(field::kDescriptionState, serialize_state(state));
  }
  pbf_writer metadata(writer, field::kDescriptionMetadata);
  metadata.add_string(field::kMetadataShort, notes.description);
  for (const auto& [key, value] : notes.user_defined) {
    pbf_writer entry(metadata, field::kMetadataUserDefined);
    entry.add_string(1, key);
    entry.add_string(2, value);
  }
  return result;
}

// The first 128 bits of a hash as a UUID of version 8 (RFC 9562: custom).
std::string uuid_of(const std::string& text) {
  std::string digits = sha256_hex(std::as_bytes(std::span(text))).substr(0, 32);
  digits[12] = '8';
  digits[16] = 'A';
  std::ranges::transform(digits, digits.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return digits.substr(0, 8) + "-" + digits.substr(8, 4) + "-" + digits.substr(12, 4) + "-" + digits.substr(16, 4) +
         "-" + digits.substr(20);
}

// What the models take that none before them gives.
std::vector<MilFunction::Feature> pipeline_inputs(const std::vector<const MilFunction*>& functions) {
  std::vector<MilFunction::Feature> inputs;
  std::set<std::string> known;
  for (const MilFunction* function : functions) {
    std::ranges::copy_if(function->inputs(), std::back_inserter(inputs),
                         [&](const MilFunction::Feature& input) { return known.insert(input.name).second; });
    for (const MilFunction::Feature& output : function->outputs()) {
      known.insert(output.name);
    }
  }
  return inputs;
}

}  // namespace

std::string serialize_model(const MilFunction& function, const InputLengths& lengths, const DeploymentTarget& target,
                            const ModelNotes& notes) {
  std::string result;
  pbf_writer writer(result);
  writer.add_int32(field::kModelSpecification, target.specification);
  writer.add_message(field::kModelDescription,
                     serialize_description(function.inputs(), function.outputs(), function.states(), lengths, notes));
  writer.add_message(field::kModelProgram, function.serialize_program(target.opset));
  return result;
}

std::string serialize_pipeline(const std::vector<const MilFunction*>& functions, const InputLengths& lengths,
                               const DeploymentTarget& target, const ModelNotes& notes) {
  std::string result;
  pbf_writer writer(result);
  writer.add_int32(field::kModelSpecification, target.specification);
  writer.add_message(field::kModelDescription, serialize_description(pipeline_inputs(functions),
                                                                     functions.back()->outputs(), {}, lengths, notes));
  pbf_writer pipeline(writer, field::kModelPipeline);
  for (const MilFunction* function : functions) {
    pipeline.add_message(field::kPipelineModels, serialize_model(*function, lengths, target, {}));
  }
  for (std::size_t i = 0; i < functions.size(); ++i) {
    pipeline.add_string(field::kPipelineNames, "part_" + std::to_string(i));
  }
  return result;
}

std::string package_manifest(const std::string& model) {
  const std::string root = uuid_of("model" + model);
  const std::string weights = uuid_of("weights" + model);
  const auto item = [](const char* description, const char* name, const char* path) {
    return nlohmann::json{{"author", "com.apple.CoreML"}, {"description", description}, {"name", name}, {"path", path}};
  };
  // Keys in alphabetical order, as coremltools writes the file anew whenever it opens a package.
  const nlohmann::json manifest{
      {"fileFormatVersion", "1.0.0"},
      {"itemInfoEntries",
       {{root, item("CoreML Model Specification", "model.mlmodel", "com.apple.CoreML/model.mlmodel")},
        {weights, item("CoreML Model Weights", "weights", "com.apple.CoreML/weights")}}},
      {"rootModelIdentifier", root}};
  return manifest.dump(4) + "\n";
}

bool is_package(const std::filesystem::path& folder) {
  std::error_code error;
  return std::filesystem::is_regular_file(folder / kManifestFile, error) &&
         std::filesystem::is_directory(folder / "Data", error);
}

bool is_chunks_folder(const std::filesystem::path& folder) {
  constexpr std::size_t kMaxManifestBytes = std::size_t{1} << 20U;
  return has_json_format(folder / kChunksManifest, kChunksFormat, kMaxManifestBytes);
}

}  // namespace diffulex_edge::coreml
