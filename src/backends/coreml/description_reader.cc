#include "backends/coreml/description_reader.h"

#include <algorithm>
#include <array>
#include <utility>

#include "backends/coreml/message_fields.h"
#include "core/message_reader.h"

namespace diffulex_edge::coreml {
namespace {

// ArrayFeatureType.ArrayDataType.
constexpr std::array kArrayTypes = {NumberedName{65552, "f16"}, NumberedName{65568, "f32"}, NumberedName{65600, "f64"},
                                    NumberedName{131080, "i8"}, NumberedName{131104, "i32"}};
// Fields of FeatureType that are no arrays.
constexpr std::array kOtherFeatures = {NumberedName{1, "i64 scalar"}, NumberedName{2, "f64 scalar"},
                                       NumberedName{3, "string"},     NumberedName{4, "image"},
                                       NumberedName{6, "dictionary"}, NumberedName{7, "sequence"}};

class DescriptionReader {
 public:
  explicit DescriptionReader(const std::string& file) : file_(file) {}

  ModelDescription read(MessageReader message) const {
    ModelDescription result;
    while (message.next()) {
      switch (message.tag()) {
        case field::kDescriptionInput:
          result.features.inputs.push_back(read_feature(message.message()));
          break;
        case field::kDescriptionOutput:
          result.features.outputs.push_back(read_feature(message.message()));
          break;
        case field::kDescriptionState:
          result.features.states.push_back(read_feature(message.message()));
          break;
        case field::kDescriptionFunctions: {
          auto [name, features] = read_function_description(message.message());
          result.functions[name] = std::move(features);
          break;
        }
        case field::kDescriptionMetadata:
          read_metadata(message.message(), result);
          break;
        default:
          message.skip();
      }
    }
    return result;
  }

 private:
  std::pair<std::string, InspectedFeatures> read_function_description(MessageReader message) const {
    std::pair<std::string, InspectedFeatures> result;
    while (message.next()) {
      switch (message.tag()) {
        case field::kFunctionDescriptionName:
          result.first = message.text();
          break;
        case field::kFunctionDescriptionInput:
          result.second.inputs.push_back(read_feature(message.message()));
          break;
        case field::kFunctionDescriptionOutput:
          result.second.outputs.push_back(read_feature(message.message()));
          break;
        case field::kFunctionDescriptionState:
          result.second.states.push_back(read_feature(message.message()));
          break;
        default:
          message.skip();
      }
    }
    return result;
  }

  static void read_metadata(MessageReader message, ModelDescription& description) {
    while (message.next()) {
      switch (message.tag()) {
        case field::kMetadataShort:
          description.text = message.text();
          break;
        case field::kMetadataUserDefined: {
          const auto [key, value] = read_map_entry(message.message());
          description.metadata[std::string(key)] = std::string(value);
          break;
        }
        default:
          message.skip();
      }
    }
  }

  // --- Inputs and outputs.

  InspectedFeature read_feature(MessageReader message) const {
    InspectedFeature feature;
    std::string_view type;
    while (message.next()) {
      switch (message.tag()) {
        case field::kFeatureName:
          feature.name = message.text();
          break;
        case field::kFeatureType:
          type = message.view();
          break;
        default:
          message.skip();
      }
    }
    read_feature_type(MessageReader(type), feature);
    return feature;
  }

  void read_feature_type(MessageReader message, InspectedFeature& feature) const {
    while (message.next()) {
      const auto tag = message.tag();
      if (tag == field::kTypeMultiArray) {
        read_array(message.message(), feature);
      } else if (tag == field::kTypeState) {
        MessageReader state = message.message();
        while (state.next()) {
          if (state.tag() == field::kStateArray) {
            read_array(state.message(), feature);
          } else {
            state.skip();
          }
        }
      } else {
        feature.dtype = find_name(kOtherFeatures, tag).value_or(feature.dtype);
        message.skip();
      }
    }
    if (feature.dtype.empty()) {
      fail("the feature '" + feature.name + "' has no type");
    }
  }

  void read_array(MessageReader message, InspectedFeature& feature) const {
    feature.dtype = "unknown";
    while (message.next()) {
      switch (message.tag()) {
        case field::kArrayShape:
          message.append_integers(feature.shape);
          break;
        case field::kArrayDataType: {
          const std::int64_t type = message.integer();
          feature.dtype = find_name(kArrayTypes, type).value_or("type " + std::to_string(type));
          break;
        }
        case field::kArrayEnumerated: {
          MessageReader shapes = message.message();
          while (shapes.next()) {
            if (shapes.tag() == field::kEnumeratedShapes) {
              feature.enumerated_shapes.push_back(read_shape(shapes.message()));
            } else {
              shapes.skip();
            }
          }
          break;
        }
        case field::kArrayRange: {
          MessageReader ranges = message.message();
          while (ranges.next()) {
            if (ranges.tag() == field::kRangeSizes) {
              feature.shape_range.push_back(read_range(ranges.message()));
            } else {
              ranges.skip();
            }
          }
          break;
        }
        default:
          message.skip();
      }
    }
    check_array(feature);
  }

  static std::vector<std::int64_t> read_shape(MessageReader message) {
    std::vector<std::int64_t> shape;
    while (message.next()) {
      if (message.tag() == field::kShapeSizes) {
        message.append_integers(shape);
      } else {
        message.skip();
      }
    }
    return shape;
  }

  static std::pair<std::int64_t, std::int64_t> read_range(MessageReader message) {
    std::pair<std::int64_t, std::int64_t> range;
    while (message.next()) {
      switch (message.tag()) {
        case field::kSizeLower:
          range.first = message.integer();
          break;
        case field::kSizeUpper:
          range.second = message.integer();
          break;
        default:
          message.skip();
      }
    }
    return range;
  }

  void check_array(const InspectedFeature& feature) const {
    const auto is_bad = [](std::int64_t size) { return size < 0; };
    bool bad = std::ranges::any_of(feature.shape, is_bad);
    for (const auto& shape : feature.enumerated_shapes) {
      bad =
          bad || std::ranges::any_of(shape, is_bad) || (!feature.shape.empty() && shape.size() != feature.shape.size());
    }
    for (const auto& [least, most] : feature.shape_range) {
      bad = bad || least < 0 || most < -1 || (most >= 0 && most < least);
    }
    bad = bad || (!feature.shape_range.empty() && !feature.shape.empty() &&
                  feature.shape_range.size() != feature.shape.size());
    if (bad) {
      fail("the shapes of '" + feature.name + "' contradict each other or are negative");
    }
  }

  [[noreturn]] void fail(const std::string& what) const { fail_message(file_, what); }

  const std::string& file_;
};

}  // namespace

ModelDescription read_description(std::string_view message, const std::string& file) {
  return DescriptionReader(file).read(MessageReader(message));
}

}  // namespace diffulex_edge::coreml
