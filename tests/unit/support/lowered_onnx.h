// A model that the QNN backend lowered, written and read back.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "backends/qnn/lowering.h"
#include "quant/kernels/kernels.h"
#include "support/onnx_reader.h"

namespace diffulex_edge::testing {

using qnn::Encoding;
using qnn::kDataFile;
using qnn::LoweredModel;
using qnn::LoweringSettings;
using qnn::OnnxDtype;
using qnn::stored_bytes;

struct Lowered {
  // In mode static every value is an integer of `bits` bits, with the findings' ranges.
  Lowered(Model loaded, const QuantizationConfig& config, const LoweringSettings& settings,
          const CalibrationFindings& findings = {}, int bits = 16)
      : model(std::move(loaded)),
        plan(quantize_model(model, config, findings, target(bits)).plan),
        positions(model.graph, model.seq_len),
        distinct(*model.checkpoint),
        result(qnn::lower(model, plan, positions, distinct, settings)),
        onnx(read_onnx(result->models.at(0)->graph.serialize({}))),
        data(static_cast<std::size_t>(result->data.file_bytes()), '\0') {
    std::mutex mutex;
    result->data.stream(
        [&](std::int64_t offset, std::span<const std::byte> bytes) {
          const std::scoped_lock lock(mutex);
          std::memcpy(data.data() + offset, bytes.data(), bytes.size());
        },
        {.threads = 1});
  }

  static TargetArithmetic target(int bits) {
    return {.has_dynamic = false,
            .groups_are_dynamic = false,
            .has_static_groups = true,
            .static_everywhere = true,
            .static_bits = bits};
  }

  std::string bytes(const std::string& tensor) const {
    const OnnxTensor& found = onnx.tensors.at(tensor);
    if (found.location.empty()) {
      return found.raw;
    }
    EXPECT_EQ(found.location, kDataFile);
    EXPECT_EQ(found.length, stored_bytes({.dtype = static_cast<OnnxDtype>(found.dtype), .sizes = found.sizes}));
    return data.substr(static_cast<std::size_t>(found.offset), static_cast<std::size_t>(found.length));
  }
  // Of a tensor of floats or unsigned integers.
  std::vector<double> numbers(const std::string& tensor) const {
    const std::string all = bytes(tensor);
    switch (onnx.tensors.at(tensor).dtype) {
      case kOnnxFloat:
        return numbers_as<float>(all, [](float value) { return static_cast<double>(value); });
      case kOnnxFloat16:
        return numbers_as<std::uint16_t>(
            all, [](std::uint16_t half) { return static_cast<double>(kernels::scalar::f16_to_f32_one(half)); });
      case kOnnxUint16:
        return numbers_as<std::uint16_t>(all, [](std::uint16_t value) { return static_cast<double>(value); });
      case kOnnxUint8:
        return numbers_as<std::uint8_t>(all, [](std::uint8_t value) { return static_cast<double>(value); });
      default:
        ADD_FAILURE() << tensor << " is of type " << onnx.tensors.at(tensor).dtype;
        return {};
    }
  }
  template <typename T>
  static std::vector<double> numbers_as(const std::string& all, double (*convert)(T)) {
    std::vector<T> values(all.size() / sizeof(T));
    std::memcpy(values.data(), all.data(), all.size());
    std::vector<double> result;
    std::ranges::transform(values, std::back_inserter(result), convert);
    return result;
  }
  // Of small data, be it floats or integers that are dequantized.
  std::vector<double> constant(const std::string& value) const {
    const OnnxNode* maker = onnx.maker(value);
    if (maker == nullptr) {
      return numbers(value);
    }
    EXPECT_EQ(maker->op, "DequantizeLinear");
    const Encoding encoding = encoding_of(*maker);
    std::vector<double> values = numbers(maker->inputs[0]);
    for (double& one : values) {
      one = (one - encoding.zero_point) * static_cast<double>(encoding.scale);
    }
    return values;
  }
  // With which a QuantizeLinear or DequantizeLinear works.
  Encoding encoding_of(const OnnxNode& node) const {
    return {.bits = onnx.tensors.at(node.inputs.at(2)).dtype == kOnnxUint16 ? 16 : 8,
            .scale = static_cast<float>(numbers(node.inputs.at(1)).at(0)),
            .zero_point = static_cast<std::int32_t>(numbers(node.inputs.at(2)).at(0))};
  }
  // The one QuantizeLinear that reads a value, if nothing else does and only DequantizeLinear reads the integers.
  const OnnxNode* quantizer(const std::string& value) const {
    const auto readers = onnx.readers(value);
    if (readers.size() != 1 || readers[0]->op != "QuantizeLinear") {
      return nullptr;
    }
    const auto after = onnx.readers(readers[0]->output);
    const auto mirrors = [&](const OnnxNode* node) {
      return node->op == "DequantizeLinear" && node->inputs[1] == readers[0]->inputs[1] &&
             node->inputs[2] == readers[0]->inputs[2];
    };
    return !after.empty() && std::ranges::all_of(after, mirrors) ? readers[0] : nullptr;
  }
  Encoding encoding_after(const std::string& value) const {
    const OnnxNode* found = quantizer(value);
    EXPECT_NE(found, nullptr) << value << " is not quantized";
    return found == nullptr ? Encoding() : encoding_of(*found);
  }

  Model model;
  QuantizationPlan plan;
  PositionValues positions;
  DistinctTensors distinct;
  std::unique_ptr<LoweredModel> result;
  ReadOnnx onnx;
  std::string data;
};

}  // namespace diffulex_edge::testing
