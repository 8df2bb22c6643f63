// A written ExecuTorch program, taken apart with the schemas' own verifiers and readers.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "executorch_program_generated.h"
#include "xnnpack_graph_generated.h"

namespace diffulex_edge::testing {

// A .pte file and what its parts mean.
class Pte {
 public:
  explicit Pte(std::string bytes) : bytes_(std::move(bytes)) {
    const auto* data = reinterpret_cast<const std::uint8_t*>(bytes_.data());
    program_size_ = load<std::uint64_t>(16);
    base_ = load<std::uint64_t>(24);
    flatbuffers::Verifier verifier(data, program_size_);
    EXPECT_TRUE(executorch::schema::VerifyProgramBuffer(verifier));
    program_ = executorch::schema::GetProgram(data);
    const std::string payload = segment(plan().delegates()->Get(0)->processed()->index());
    EXPECT_EQ(payload.substr(4, 4), "XH00");
    std::uint32_t offset = 0;
    std::uint32_t size = 0;
    std::memcpy(&offset, payload.data() + 10, 4);
    std::memcpy(&size, payload.data() + 14, 4);
    graph_buffer_.resize((size + 7) / 8);
    std::memcpy(graph_buffer_.data(), payload.data() + offset, size);
    const auto* graph_data = reinterpret_cast<const std::uint8_t*>(graph_buffer_.data());
    flatbuffers::Verifier graph_verifier(graph_data, size);
    EXPECT_TRUE(xnnpack::schema::VerifyGraphBuffer(graph_verifier));
    graph_ = xnnpack::schema::GetGraph(graph_data);
    for (const auto* named : *program_->named_data()) {
      EXPECT_TRUE(named_.emplace(named->key()->str(), named->segment_index()).second) << named->key()->str();
    }
  }

  template <typename T>
  T load(std::size_t offset) const {
    T value{};
    std::memcpy(&value, bytes_.data() + offset, sizeof(value));
    return value;
  }
  const std::string& bytes() const { return bytes_; }
  std::uint64_t program_size() const { return program_size_; }
  std::uint64_t base() const { return base_; }
  const executorch::schema::Program& program() const { return *program_; }
  const executorch::schema::ExecutionPlan& plan() const { return *program_->execution_plan()->Get(0); }
  const xnnpack::schema::Graph& graph() const { return *graph_; }
  std::string segment(std::uint32_t index) const {
    const auto* found = program_->segments()->Get(index);
    return bytes_.substr(base_ + found->offset(), found->size());
  }
  bool has(const std::string& key) const { return named_.contains(key); }
  std::string named(const std::string& key) const {
    EXPECT_TRUE(has(key)) << key;
    return has(key) ? segment(named_.at(key)) : std::string();
  }
  // What a name of the program's data says of the tensor, without the hash of its content: "model.norm.weight:f32".
  static std::string label(const std::string& key) { return key.substr(0, key.rfind(':')); }
  // The bytes of a constant tensor, and what follows them in its segment.
  std::string constant(const executorch::schema::Tensor& tensor) const {
    EXPECT_NE(tensor.data_buffer_idx(), 0U);
    const auto& constants = *program_->constant_segment();
    return segment(constants.segment_index()).substr(constants.offsets()->Get(tensor.data_buffer_idx()));
  }
  // The stored weight with this label, whether the delegate packs it or gets it as an argument.
  std::string stored(const std::string& name) const {
    for (const auto& [key, index] : named_) {
      if (label(key) == name) {
        return segment(index);
      }
    }
    for (const auto* value : *plan().values()) {
      const auto* tensor = value->val_as_Tensor();
      if (tensor != nullptr && tensor->extra_tensor_info() != nullptr &&
          tensor->extra_tensor_info()->fully_qualified_name()->str() == name) {
        return constant(*tensor);
      }
    }
    ADD_FAILURE() << name << " is not in the file";
    return {};
  }

 private:
  std::string bytes_;
  std::uint64_t program_size_ = 0;
  std::uint64_t base_ = 0;
  const executorch::schema::Program* program_ = nullptr;
  std::vector<std::uint64_t> graph_buffer_;
  const xnnpack::schema::Graph* graph_ = nullptr;
  std::map<std::string, std::uint32_t> named_;
};

inline const xnnpack::schema::TensorValue& tensor_of(const xnnpack::schema::Value& value) {
  const auto* quantized = value.xvalue_union_as_QuantizedTensorValue();
  return quantized != nullptr ? *quantized->tensor_value() : *value.xvalue_union_as_TensorValue();
}

}  // namespace diffulex_edge::testing
