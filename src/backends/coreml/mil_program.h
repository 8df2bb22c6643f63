// One function of a Core ML ML Program (MIL), under construction, and its protocol buffer. Messages and field numbers:
// MIL.proto of coremltools.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/unique_names.h"
#include "diffulex_edge/dtype.h"

namespace diffulex_edge::coreml {

// The values are those of MIL.proto's DataType.
enum class MilDtype : std::int32_t {
  kBool = 1,
  kString = 2,
  kFloat16 = 10,
  kFloat32 = 11,
  kInt8 = 21,
  kInt32 = 23,
  kInt4 = 25,
  kUint8 = 31,
  kUint32 = 33,
  kUint4 = 35,
  kUint2 = 36,
  kUint1 = 37,
  kUint6 = 38,
  kUint3 = 39,
};

// 2^-14: below it, float16 loses bits, and some units all of it.
inline constexpr float kLeastNormalHalf = 6.103515625e-05F;

// A sequence dimension is written as unknown: its length is the caller's. Rank 0 is a scalar.
struct MilType {
  MilDtype dtype = MilDtype::kFloat32;
  Shape shape;
};

bool has_sequence(const Shape& shape);

// The offset of a blob's metadata in a weight file, and the file's name inside the package.
struct BlobReference {
  std::string file;
  std::int64_t offset = 0;
};

// A constant, where a value can stand in the program itself.
struct MilLiteral {
  MilType type;
  // In the order of the proto's value fields: int32, float32, bool, string; bytes for float16, 8 bits, less, and
  // uint32, little-endian; or a blob.
  std::variant<std::vector<std::int32_t>, std::vector<float>, std::vector<bool>, std::string, std::vector<std::byte>,
               BlobReference>
      value;
};

MilLiteral int_literal(std::int32_t value);
MilLiteral ints_literal(std::vector<std::int32_t> values);  // rank 1
MilLiteral bool_literal(bool value);
MilLiteral bools_literal(std::vector<bool> values);  // rank 1
MilLiteral string_literal(std::string value);
MilLiteral int8_literal(std::int8_t value);
MilLiteral uint32s_literal(std::span<const std::int64_t> values);  // rank 1
// A scalar in float16 (rounded) or float32.
MilLiteral float_literal(MilDtype dtype, float value);
// Of that shape, static, in float16 (rounded) or float32.
MilLiteral floats_literal(MilDtype dtype, std::span<const float> values, Shape shape);
MilLiteral blob_literal(MilDtype dtype, std::span<const std::int64_t> sizes, BlobReference blob);

using Id = std::int32_t;  // a value of a function

class MilFunction {
 public:
  // By parameter: other values (one, or a list for parameters that take several).
  using Arguments = std::vector<std::pair<std::string, std::vector<Id>>>;
  using Literals = std::vector<std::pair<std::string, MilLiteral>>;

  // A name that MIL allows and nothing has, as like `wish` as can be; no operation gets it from now on.
  std::string take_name(std::string_view wish);
  // `name` is a taken one, or one that MIL allows.
  Id input(std::string name, MilType type);
  // A buffer of that static type, float16, that keeps its content from one execution to the next (from iOS18 on). It is
  // no value: read_state and write_state take it.
  Id state(std::string name, MilType type);
  // A `const` operation. Equal literals share one.
  Id constant(MilLiteral literal, std::string_view name = "c");
  // `name` is a wish; characters that MIL does not allow are replaced, and a number is added where it is taken.
  Id add(std::string_view operation, Arguments arguments, MilType type, std::string_view name = {});
  // An operation that gives nothing: write_state.
  void add_without_result(std::string_view operation, Arguments arguments);
  // A constexpr operation; before iOS18 its parameters are attributes.
  Id add_constexpr(std::string_view operation, Literals parameters, bool as_attributes, MilType type,
                   std::string_view name);
  // `value` becomes an output under that name.
  void output(Id value, std::string name);

  const MilType& type(Id value) const { return values_.at(static_cast<std::size_t>(value)).type; }
  // Whether the value is an operation's result, and not an input or a constant.
  bool is_computed(Id value) const;
  // The type of each operation but const, in order.
  std::vector<std::string> operations() const;

  // The message MILSpec.Program with this function as "main".
  std::string serialize_program(std::string_view opset) const;

  struct Feature {
    std::string name;
    MilType type;
  };
  const std::vector<Feature>& inputs() const { return inputs_; }
  const std::vector<Feature>& states() const { return states_; }
  const std::vector<Feature>& outputs() const { return outputs_; }

 private:
  struct Value {
    std::string name;
    MilType type;
  };
  struct Operation {
    std::string type;
    Arguments arguments;
    Literals literals;  // inputs bound to values
    Literals attributes;
    std::optional<Id> result;
    std::string name;  // of one without a result
  };

  Id define(MilType type, std::string name);
  std::string serialize_block() const;
  std::string serialize_operation(const Operation& operation) const;

  std::vector<Value> values_;
  std::vector<Operation> operations_;
  std::vector<Feature> inputs_;
  std::vector<Feature> states_;
  std::vector<Feature> outputs_;
  UniqueNames names_;
  std::map<std::string, Id> constants_;  // by their serialized literal
};

}  // namespace diffulex_edge::coreml
