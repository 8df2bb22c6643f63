// Field numbers of onnx.proto.
#pragma once

#include <cstdint>
#include <protozero/types.hpp>

namespace diffulex_edge::qnn::field {

inline constexpr protozero::pbf_tag_type kModelIrVersion = 1;
inline constexpr protozero::pbf_tag_type kModelProducer = 2;
inline constexpr protozero::pbf_tag_type kModelProducerVersion = 3;
inline constexpr protozero::pbf_tag_type kModelGraph = 7;
inline constexpr protozero::pbf_tag_type kModelOpset = 8;
inline constexpr protozero::pbf_tag_type kModelMetadata = 14;
inline constexpr protozero::pbf_tag_type kOpsetDomain = 1;
inline constexpr protozero::pbf_tag_type kOpsetVersion = 2;
inline constexpr protozero::pbf_tag_type kEntryKey = 1;
inline constexpr protozero::pbf_tag_type kEntryValue = 2;
inline constexpr protozero::pbf_tag_type kGraphNode = 1;
inline constexpr protozero::pbf_tag_type kGraphName = 2;
inline constexpr protozero::pbf_tag_type kGraphInitializer = 5;
inline constexpr protozero::pbf_tag_type kGraphInput = 11;
inline constexpr protozero::pbf_tag_type kGraphOutput = 12;
inline constexpr protozero::pbf_tag_type kGraphValueInfo = 13;
inline constexpr protozero::pbf_tag_type kNodeInput = 1;
inline constexpr protozero::pbf_tag_type kNodeOutput = 2;
inline constexpr protozero::pbf_tag_type kNodeName = 3;
inline constexpr protozero::pbf_tag_type kNodeOpType = 4;
inline constexpr protozero::pbf_tag_type kNodeAttribute = 5;
inline constexpr protozero::pbf_tag_type kNodeDomain = 7;
inline constexpr protozero::pbf_tag_type kAttributeName = 1;
inline constexpr protozero::pbf_tag_type kAttributeFloat = 2;
inline constexpr protozero::pbf_tag_type kAttributeInt = 3;
inline constexpr protozero::pbf_tag_type kAttributeString = 4;
inline constexpr protozero::pbf_tag_type kAttributeInts = 8;
inline constexpr protozero::pbf_tag_type kAttributeType = 20;
inline constexpr protozero::pbf_tag_type kTensorDims = 1;
inline constexpr protozero::pbf_tag_type kTensorDataType = 2;
inline constexpr protozero::pbf_tag_type kTensorName = 8;
inline constexpr protozero::pbf_tag_type kTensorRawData = 9;
inline constexpr protozero::pbf_tag_type kTensorExternalData = 13;
inline constexpr protozero::pbf_tag_type kTensorDataLocation = 14;
inline constexpr protozero::pbf_tag_type kValueInfoName = 1;
inline constexpr protozero::pbf_tag_type kValueInfoType = 2;
inline constexpr protozero::pbf_tag_type kTypeTensor = 1;
inline constexpr protozero::pbf_tag_type kTensorTypeElement = 1;
inline constexpr protozero::pbf_tag_type kTensorTypeShape = 2;
inline constexpr protozero::pbf_tag_type kShapeDim = 1;
inline constexpr protozero::pbf_tag_type kDimSize = 1;

}  // namespace diffulex_edge::qnn::field
