// Field numbers of Core ML's protocol buffers, as coremltools' Model.proto, FeatureTypes.proto and MIL.proto have them.
#pragma once

#include <protozero/types.hpp>

namespace diffulex_edge::coreml::field {

using protozero::pbf_tag_type;

// --- Model.proto and FeatureTypes.proto.

inline constexpr pbf_tag_type kModelSpecification = 1;
inline constexpr pbf_tag_type kModelDescription = 2;
inline constexpr pbf_tag_type kModelPipeline = 202;
inline constexpr pbf_tag_type kModelProgram = 502;
inline constexpr pbf_tag_type kPipelineModels = 1;
inline constexpr pbf_tag_type kPipelineNames = 2;
inline constexpr pbf_tag_type kDescriptionInput = 1;
inline constexpr pbf_tag_type kDescriptionOutput = 10;
inline constexpr pbf_tag_type kDescriptionState = 13;
inline constexpr pbf_tag_type kDescriptionFunctions = 20;
inline constexpr pbf_tag_type kFunctionDescriptionName = 1;
inline constexpr pbf_tag_type kFunctionDescriptionInput = 2;
inline constexpr pbf_tag_type kFunctionDescriptionOutput = 3;
inline constexpr pbf_tag_type kFunctionDescriptionState = 6;
inline constexpr pbf_tag_type kDescriptionMetadata = 100;
inline constexpr pbf_tag_type kMetadataShort = 1;
inline constexpr pbf_tag_type kMetadataUserDefined = 100;
inline constexpr pbf_tag_type kFeatureName = 1;
inline constexpr pbf_tag_type kFeatureType = 3;
inline constexpr pbf_tag_type kTypeMultiArray = 5;
inline constexpr pbf_tag_type kTypeState = 8;
inline constexpr pbf_tag_type kStateArray = 1;
inline constexpr pbf_tag_type kArrayShape = 1;
inline constexpr pbf_tag_type kArrayDataType = 2;
inline constexpr pbf_tag_type kArrayEnumerated = 21;
inline constexpr pbf_tag_type kArrayRange = 31;
inline constexpr pbf_tag_type kEnumeratedShapes = 1;
inline constexpr pbf_tag_type kShapeSizes = 1;
inline constexpr pbf_tag_type kRangeSizes = 1;
inline constexpr pbf_tag_type kSizeLower = 1;
inline constexpr pbf_tag_type kSizeUpper = 2;

// --- MIL.proto.

inline constexpr pbf_tag_type kProgramVersion = 1;
inline constexpr pbf_tag_type kProgramFunctions = 2;
inline constexpr pbf_tag_type kFunctionInputs = 1;
inline constexpr pbf_tag_type kFunctionOpset = 2;
inline constexpr pbf_tag_type kFunctionBlocks = 3;
inline constexpr pbf_tag_type kBlockOutputs = 2;
inline constexpr pbf_tag_type kBlockOperations = 3;
inline constexpr pbf_tag_type kOperationType = 1;
inline constexpr pbf_tag_type kOperationInputs = 2;
inline constexpr pbf_tag_type kOperationOutputs = 3;
inline constexpr pbf_tag_type kOperationBlocks = 4;
inline constexpr pbf_tag_type kOperationAttributes = 5;
inline constexpr pbf_tag_type kArgumentBindings = 1;
inline constexpr pbf_tag_type kBindingName = 1;
inline constexpr pbf_tag_type kBindingValue = 2;
inline constexpr pbf_tag_type kNamedValueName = 1;
inline constexpr pbf_tag_type kNamedValueType = 2;
inline constexpr pbf_tag_type kValueTypeTensor = 1;
inline constexpr pbf_tag_type kValueTypeState = 5;
inline constexpr pbf_tag_type kStateWrapped = 1;
inline constexpr pbf_tag_type kTensorDataType = 1;
inline constexpr pbf_tag_type kTensorRank = 2;
inline constexpr pbf_tag_type kTensorDimensions = 3;
inline constexpr pbf_tag_type kDimensionConstant = 1;
inline constexpr pbf_tag_type kDimensionUnknown = 2;
inline constexpr pbf_tag_type kConstantSize = 1;
inline constexpr pbf_tag_type kValueType = 2;
inline constexpr pbf_tag_type kValueImmediate = 3;
inline constexpr pbf_tag_type kValueBlob = 5;
inline constexpr pbf_tag_type kImmediateTensor = 1;
inline constexpr pbf_tag_type kBlobFile = 1;
inline constexpr pbf_tag_type kBlobOffset = 2;
inline constexpr pbf_tag_type kTensorFloats = 1;
inline constexpr pbf_tag_type kTensorInts = 2;
inline constexpr pbf_tag_type kTensorBools = 3;
inline constexpr pbf_tag_type kTensorStrings = 4;
inline constexpr pbf_tag_type kTensorBytes = 7;
inline constexpr pbf_tag_type kRepeatedValues = 1;
inline constexpr pbf_tag_type kMapKey = 1;
inline constexpr pbf_tag_type kMapValue = 2;

}  // namespace diffulex_edge::coreml::field
