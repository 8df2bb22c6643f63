// The values of a model graph inside the delegate: each in the types that its consumers ask for, and its constants.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "backends/xnnpack/lowering.h"
#include "diffulex_edge/model.h"
#include "quant/affine_scale.h"

namespace diffulex_edge::xnnpack {

// Of kF32, kF16 and kI8. Throws Error{kInternal} for others.
Datatype datatype(DType dtype);
executorch::schema::ScalarType scalar_type(DType dtype);
std::vector<std::uint32_t> upper_bounds(const Shape& shape);
// A name that ends with a digest: of one length, whatever the digest.
std::string named_by(const std::string& name, const ContentDigest& digest);

// Every value of the model graph exists in the delegate in one type at first, and in others where a consumer needs it:
// the conversions are made once.
struct Mapped {
  std::optional<XnnId> f32;
  std::optional<XnnId> f16;
  std::optional<XnnId> per_token;
  std::vector<std::pair<AffineScale, XnnId>> static_int8;  // in 8 bits, with scales from calibration
  DType native = DType::kF32;                              // in which it was made
  DType flow = DType::kF32;  // in which its consumers compute, if they have no wish of their own

  std::optional<XnnId>& in(DType dtype) { return dtype == DType::kF16 ? f16 : f32; }
};

class DelegateValues {
 public:
  // Keeps references to the plan. With a cache the longest sequence is that of a step, and the graph is cut before each
  // attention, which stays an operator of its own, as the block-causal mask does. Where logits are not of all tokens,
  // it is cut before the head, too.
  DelegateValues(const Model& model, const QuantizationResult& quantization, const std::optional<CachePlan>& cache);

  // The one under construction.
  DelegateGraph& delegate() { return result_->delegates.back(); }
  executorch::ProgramBuilder& program() { return result_->program; }
  Mapped& mapped(ValueId value) { return mapped_[static_cast<std::size_t>(value)]; }
  const Node& node(ValueId value) const { return graph_.node(value); }
  const diffulex_edge::Graph& graph() const { return graph_; }
  const QuantizationPlan& plan() const { return plan_; }
  // The type in which activations flow.
  DType compute() const { return compute_; }
  LoweredProgram& result() { return *result_; }
  bool is_used(ValueId value) const { return is_used_.at(static_cast<std::size_t>(value)); }

  // The value in the wanted type, converted if need be.
  XnnId get(ValueId value, DType dtype);
  // Quantized from the type in which the layer's result will be: XNNPACK's FP16 kernels read the scales that a
  // conversion from FP16 leaves, and give NaN with those of a conversion from FP32.
  XnnId per_token(ValueId value);
  // In 8 bits with a scale from calibration. Layers that share an input and its range share the conversion, too.
  XnnId static_int8(ValueId value, const AffineScale& scale);
  // The type in which an operator computes that takes one or two values: FP16 as soon as one of them flows in FP16.
  DType common_type(const Node& node);

  // A new value of the delegate that stands for `value`. The graph's output becomes the delegate's, and so does what
  // later delegates need: they find it as an input.
  XnnId define(ValueId value, DType dtype);
  // A value that comes from outside: an argument of the delegate's call.
  void delegate_input(ValueId value, std::int32_t tensor, DType dtype);
  // The same for tensors of the program that no value of the graph stands for.
  XnnId tensor_input(std::int32_t tensor, DType dtype, std::vector<std::uint32_t> dims,
                     ValueQuantization quantization = {});
  XnnId tensor_output(std::int32_t tensor, DType dtype, std::vector<std::uint32_t> dims,
                      ValueQuantization quantization = {});

  // The program's tensor of a value that an earlier delegate made.
  std::int32_t passed_tensor(ValueId value) const { return passing_.at(value).tensor; }

  // Calls the delegate that is under construction, and begins the next one.
  void cut();

  // An operand that is the same in every call.
  XnnId computed_operand(const std::vector<float>& values, const std::vector<std::uint32_t>& dims, DType dtype);
  // A filter or a bias of a fully-connected node, [out, in] or [out].
  XnnId computed_weight(const std::vector<float>& values, std::vector<std::uint32_t> dims);
  // Data that were computed, among the artefact's segments.
  std::uint32_t computed_segment(const std::vector<float>& values, DType dtype);
  // The delegate's own number for a segment of which it packs `bytes`. `packing` says what the packed form depends on
  // beside them.
  std::uint32_t packed_constant(std::uint32_t segment, std::size_t bytes, const std::string& packing = {});
  // A constant tensor's place in the program.
  executorch::ConstantIndex program_constant(std::uint32_t segment, std::int64_t offset);
  const std::string& segment_name(std::uint32_t segment) const { return result_->weights.segments()[segment].name; }

  const LayerPlan& layer_plan(const Node& user, ValueId weight) const;
  void note_layer(const LayerPlan& plan, std::string kernel, std::int64_t stored_bytes);
  // A norm's weight, or a bias that is added apart.
  XnnId vector_operand(const Node& user, ValueId weight, DType dtype);
  // Of a norm or a bias.
  StoredParts stored_vector(const Node& user, ValueId weight, DType dtype);

  // The graph's output and the last delegate's call, when every node has been lowered.
  std::unique_ptr<LoweredProgram> finish();

 private:
  static constexpr std::size_t kNoArgument = std::numeric_limits<std::size_t>::max();

  void call_delegate();
  // A tensor of the program for a value that delegates pass on. It may be that of an earlier value of equal type and
  // shape whose last reader is over.
  std::int32_t passing_tensor(ValueId value, DType dtype);
  XnnId convert(ValueId value, DType dtype);
  XnnId constant(ValueId value, DType dtype);
  // A constant that XNNPACK does not pack is an argument of the call, from the program's constant segment: the backend
  // frees the delegate's own constants once nodes have been prepared, where its weight cache is on.
  XnnId constant_operand(std::uint32_t segment, const std::vector<std::uint32_t>& dims, DType dtype);
  XnnId define_output(const std::vector<std::uint32_t>& dims);

  const QuantizationPlan& plan_;
  std::vector<const LayerPlan*> sorted_plans_;  // a model with experts has tens of thousands
  diffulex_edge::Graph graph_;
  DType compute_;
  std::unique_ptr<LoweredProgram> result_;
  std::vector<Mapped> mapped_;
  std::vector<bool> is_used_;                // by ValueId
  std::vector<std::size_t> last_delegates_;  // by ValueId, the last one that needs it
  struct Passing {
    std::int32_t tensor = 0;
    DType dtype = DType::kF32;
  };
  std::map<ValueId, Passing> passing_;           // values that a delegate made for later ones
  std::vector<ValueId> no_longer_passing_;       // whose tensors others may take
  std::map<std::string, std::size_t> packings_;  // numbers of the few that there are
  using ConstantKey = std::tuple<std::uint32_t, std::size_t, std::size_t>;  // segment, bytes, packing
  std::map<ConstantKey, std::size_t> named_;                                // among the result's
  using OperandKey = std::pair<std::uint32_t, std::vector<std::uint32_t>>;  // segment and dimensions
  std::map<OperandKey, std::int32_t> operand_tensors_;
  // Of the delegate that is under construction.
  std::map<std::size_t, std::uint32_t> packed_constants_;  // by their place in the result's `named`
  std::map<OperandKey, XnnId> operands_;
  std::vector<std::int32_t> arguments_;        // of its call
  std::size_t output_argument_ = kNoArgument;  // the place of the output among them
};

}  // namespace diffulex_edge::xnnpack
