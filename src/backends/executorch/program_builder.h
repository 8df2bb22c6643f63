// An ExecuTorch program with one method, and others that only return constants, under construction, in the terms of
// schema/executorch_program.fbs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "diffulex_edge/dtype.h"
#include "executorch_program_generated.h"

namespace diffulex_edge::executorch {

// Where a constant tensor's bytes are: entry of the constant segment's offsets.
using ConstantIndex = std::uint32_t;

struct Segment {
  std::int64_t offset = 0;  // from the segment base
  std::int64_t size = 0;
};

// What a method returns that computes nothing: one value, or of a list each as an output of its own. ExecuTorch's
// runners read a model's metadata so.
using ConstantValue = std::variant<std::int64_t, bool, std::string>;
struct ConstantMethod {
  std::string name;
  std::vector<ConstantValue> values;
  bool is_list = false;
};

class ProgramBuilder {
 public:
  using ValueIndex = std::int32_t;

  explicit ProgramBuilder(std::string method) : method_(std::move(method)) {}

  // A tensor that the method's memory plan places; sizes with a sequence are upper bounds.
  ValueIndex planned_tensor(schema::ScalarType type, const Shape& shape);
  // `name` is for people and tools that look into the file; the runtime does not read it.
  ValueIndex constant_tensor(schema::ScalarType type, const std::vector<std::int64_t>& sizes, ConstantIndex constant,
                             std::string name);
  ValueIndex integer(std::int64_t value);
  ValueIndex boolean(bool value);
  ValueIndex null();
  // Lists whose items are values: integers, and tensors of which -1 is none.
  ValueIndex integers(std::vector<ValueIndex> items);
  ValueIndex optional_tensors(std::vector<ValueIndex> items);

  // Memory that keeps its content from one execution to the next, and is zero at first. Behind it is room that XNNPACK
  // may read beyond a tensor's end.
  ValueIndex buffer(schema::ScalarType type, const std::vector<std::int64_t>& sizes);
  // Another tensor in the memory of a planned one or a buffer, `offset` bytes behind its begin. `sizes` are upper
  // bounds: what gives it a smaller size at run time copies nothing.
  ValueIndex view(ValueIndex tensor, std::int64_t offset, const std::vector<std::int64_t>& sizes);

  void set_input(ValueIndex value) { inputs_.push_back(value); }
  void set_output(ValueIndex value) { outputs_.push_back(value); }
  // `arguments` as ExecuTorch calls the kernel: the operator's own, then where results go.
  void kernel_call(const std::string& name, const std::string& overload, std::vector<ValueIndex> arguments);
  // `options` reach the delegate as compile specs. `payload` is counted from the layout's first payload.
  void delegate_call(std::string backend, std::vector<ValueIndex> arguments, std::uint32_t payload,
                     std::vector<std::pair<std::string, std::string>> options = {});

  // They come behind the method, in the order of their names, of which each is there once.
  void add_constant_methods(const std::vector<ConstantMethod>& methods);

  // The operators outside delegates, as "aten::embedding.out", in order of execution.
  const std::vector<std::string>& kernel_names() const { return kernel_names_; }
  // Bytes of the arena for inputs, outputs and what passes between instructions, at the upper bound.
  std::int64_t arena_bytes() const { return arena_bytes_; }
  std::int64_t buffer_bytes() const { return buffer_bytes_; }

  // The first part of the file: flatbuffer with the extended header. The segment base is the next multiple of
  // `segment_alignment`; `segments_end` is the end of the last segment, from the base. `named` maps keys to segments;
  // the constants of the method lie at `constant_offsets` in `constant_segment`.
  struct Layout {
    std::vector<Segment> segments;
    std::uint32_t first_payload = 0;  // the segment of the first delegate's payload
    std::vector<std::pair<std::string, std::uint32_t>> named;
    std::uint32_t constant_segment = 0;
    std::vector<std::uint64_t> constant_offsets;
    std::int64_t segment_alignment = 1;
    std::int64_t segments_end = 0;
  };
  std::vector<std::byte> serialize(const Layout& layout) const;

 private:
  struct TensorEntry {
    schema::ScalarType type = schema::ScalarType::FLOAT;
    std::vector<std::int32_t> sizes;
    bool dynamic = false;
    ConstantIndex constant = 0;
    std::string name;          // of a constant
    std::uint32_t memory = 0;  // 0: not planned; 1: the arena; 2: buffers
    std::int64_t offset = 0;   // in it
  };
  struct IntEntry {
    std::int64_t value = 0;
  };
  struct BoolEntry {
    bool value = false;
  };
  struct NullEntry {};
  struct IntListEntry {
    std::vector<std::int64_t> items;
  };
  struct TensorListEntry {
    std::vector<std::int32_t> items;
  };
  using Entry = std::variant<NullEntry, IntEntry, BoolEntry, IntListEntry, TensorListEntry, TensorEntry>;
  struct Call {
    bool is_delegate = false;
    std::int32_t index = 0;
    std::vector<ValueIndex> arguments;
  };
  struct Delegate {
    std::string backend;
    std::uint32_t payload = 0;
    std::vector<std::pair<std::string, std::string>> options;
  };

  ValueIndex append(Entry entry);
  static flatbuffers::Offset<schema::EValue> serialize_value(flatbuffers::FlatBufferBuilder& builder,
                                                             const Entry& entry);
  flatbuffers::Offset<schema::ExecutionPlan> serialize_plan(flatbuffers::FlatBufferBuilder& builder,
                                                            std::uint32_t first_payload) const;

  std::string method_;
  std::vector<Entry> values_;
  std::vector<ValueIndex> inputs_;
  std::vector<ValueIndex> outputs_;
  std::vector<Call> calls_;
  std::vector<std::pair<std::string, std::string>> operators_;
  std::vector<std::string> kernel_names_;
  std::vector<Delegate> delegates_;
  std::int64_t arena_bytes_ = 0;
  std::int64_t buffer_bytes_ = 0;
  std::map<std::string, ConstantMethod> constant_methods_;
};

// ExecuTorch's size of one element.
std::int64_t element_bytes(schema::ScalarType type);

}  // namespace diffulex_edge::executorch
