#include "backends/executorch/program_builder.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <string_view>

#include "core/round_up.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge::executorch {
namespace {

constexpr std::int64_t kArenaAlignment = 16;
constexpr std::int64_t kBufferAlignment = 128;
constexpr std::int64_t kReadBeyond = 128;  // bytes behind a tensor that XNNPACK's kernels may read
constexpr std::uint32_t kArena = 1;
constexpr std::uint32_t kBuffers = 2;

std::int32_t to_int32(std::int64_t size) {
  if (size > std::numeric_limits<std::int32_t>::max()) {
    throw Error(ErrorCode::kUnsupported, "ExecuTorch program",
                "a tensor's size " + std::to_string(size) + " does not fit in 31 bits");
  }
  return static_cast<std::int32_t>(size);
}

// The extended header lies inside the flatbuffer, behind its first 8 bytes (root offset and identifier), so the root
// offset grows by the header's 32 bytes.
std::vector<std::byte> with_header(const std::uint8_t* flatbuffer, std::size_t size,
                                   const ProgramBuilder::Layout& layout) {
  constexpr std::size_t kHeaderBytes = 32;
  constexpr std::size_t kHead = 8;
  const std::uint64_t program_size = size + kHeaderBytes;
  const auto base =
      static_cast<std::uint64_t>(round_up(static_cast<std::int64_t>(program_size), layout.segment_alignment));
  const auto data_size = static_cast<std::uint64_t>(layout.segments_end);
  std::uint32_t root = 0;
  std::memcpy(&root, flatbuffer, sizeof(root));
  root += kHeaderBytes;
  const std::uint32_t header_length = kHeaderBytes;

  std::vector<std::byte> bytes(base);
  const auto put = [&](std::size_t offset, const void* data, std::size_t count) {
    std::memcpy(bytes.data() + offset, data, count);
  };
  put(0, &root, sizeof(root));
  put(4, flatbuffer + 4, 4);
  put(8, "eh00", 4);
  put(12, &header_length, sizeof(header_length));
  put(16, &program_size, sizeof(program_size));
  put(24, &base, sizeof(base));
  put(32, &data_size, sizeof(data_size));
  put(kHead + kHeaderBytes, flatbuffer + kHead, size - kHead);
  return bytes;
}

flatbuffers::Offset<schema::EValue> serialize_constant(flatbuffers::FlatBufferBuilder& builder,
                                                       const ConstantValue& constant) {
  if (const auto* number = std::get_if<std::int64_t>(&constant)) {
    return schema::CreateEValue(builder, schema::KernelTypes::Int, schema::CreateInt(builder, *number).Union());
  }
  if (const auto* truth = std::get_if<bool>(&constant)) {
    return schema::CreateEValue(builder, schema::KernelTypes::Bool, schema::CreateBool(builder, *truth).Union());
  }
  const auto text = schema::CreateStringDirect(builder, std::get<std::string>(constant).c_str());
  return schema::CreateEValue(builder, schema::KernelTypes::String, text.Union());
}

// PyTorch's description of a value, or of a list of so many.
std::string pytree(const ConstantMethod& method) {
  const std::string value = R"({"type": null, "context": null, "children_spec": []})";
  if (!method.is_list) {
    return "[1, " + value + "]";
  }
  std::string values;
  for (std::size_t i = 0; i < method.values.size(); ++i) {
    values += (i == 0 ? "" : ", ") + value;
  }
  return R"([1, {"type": "builtins.list", "context": "null", "children_spec": [)" + values + "]}]";
}

// As ExecuTorch's exporter writes it.
flatbuffers::Offset<schema::ExecutionPlan> serialize_constant_method(flatbuffers::FlatBufferBuilder& builder,
                                                                     const ConstantMethod& method) {
  std::vector<flatbuffers::Offset<schema::EValue>> values;
  for (const ConstantValue& constant : method.values) {
    values.push_back(serialize_constant(builder, constant));
  }
  std::vector<std::int32_t> outputs(values.size());
  std::iota(outputs.begin(), outputs.end(), 0);
  const std::vector<std::int32_t> none;
  const std::vector<flatbuffers::Offset<schema::Instruction>> no_instructions;
  const std::vector<flatbuffers::Offset<schema::Operator>> no_operators;
  const std::vector<flatbuffers::Offset<schema::BackendDelegate>> no_delegates;
  const std::vector chains = {schema::CreateChainDirect(builder, &none, &none, &no_instructions)};
  const std::vector<std::int64_t> buffers = {0};
  return schema::CreateExecutionPlanDirect(builder, method.name.c_str(),
                                           schema::CreateContainerMetadataDirect(builder, "", pytree(method).c_str()),
                                           &values, &none, &outputs, &chains, &no_operators, &no_delegates, &buffers);
}

}  // namespace

std::int64_t element_bytes(schema::ScalarType type) {
  switch (type) {
    case schema::ScalarType::BYTE:
    case schema::ScalarType::CHAR:
      return 1;
    case schema::ScalarType::HALF:
    case schema::ScalarType::UINT16:
      return 2;
    case schema::ScalarType::INT:
    case schema::ScalarType::FLOAT:
      return 4;
    case schema::ScalarType::LONG:
      return 8;
    default:
      throw Error(ErrorCode::kInternal, "ExecuTorch program", "a tensor type that is never written");
  }
}

ProgramBuilder::ValueIndex ProgramBuilder::append(Entry entry) {
  values_.push_back(std::move(entry));
  return static_cast<ValueIndex>(values_.size() - 1);
}

ProgramBuilder::ValueIndex ProgramBuilder::planned_tensor(schema::ScalarType type, const Shape& shape) {
  TensorEntry entry{.type = type, .memory = kArena, .offset = arena_bytes_};
  for (const Dim& dim : shape) {
    entry.sizes.push_back(to_int32(dim.value));
    entry.dynamic = entry.dynamic || dim.is_sequence;
  }
  arena_bytes_ = round_up(arena_bytes_ + element_count(shape) * element_bytes(type), kArenaAlignment);
  return append(std::move(entry));
}

ProgramBuilder::ValueIndex ProgramBuilder::constant_tensor(schema::ScalarType type,
                                                           const std::vector<std::int64_t>& sizes,
                                                           ConstantIndex constant, std::string name) {
  TensorEntry entry{.type = type, .constant = constant, .name = std::move(name)};
  for (const std::int64_t size : sizes) {
    entry.sizes.push_back(to_int32(size));
  }
  return append(std::move(entry));
}

ProgramBuilder::ValueIndex ProgramBuilder::integer(std::int64_t value) { return append(IntEntry{value}); }
ProgramBuilder::ValueIndex ProgramBuilder::boolean(bool value) { return append(BoolEntry{value}); }
ProgramBuilder::ValueIndex ProgramBuilder::null() { return append(NullEntry{}); }
ProgramBuilder::ValueIndex ProgramBuilder::integers(std::vector<ValueIndex> items) {
  return append(IntListEntry{{items.begin(), items.end()}});
}
ProgramBuilder::ValueIndex ProgramBuilder::optional_tensors(std::vector<ValueIndex> items) {
  return append(TensorListEntry{std::move(items)});
}

ProgramBuilder::ValueIndex ProgramBuilder::buffer(schema::ScalarType type, const std::vector<std::int64_t>& sizes) {
  TensorEntry entry{.type = type, .memory = kBuffers, .offset = buffer_bytes_};
  std::int64_t bytes = element_bytes(type);
  for (const std::int64_t size : sizes) {
    entry.sizes.push_back(to_int32(size));
    bytes *= size;
  }
  buffer_bytes_ = round_up(buffer_bytes_ + bytes + kReadBeyond, kBufferAlignment);
  return append(std::move(entry));
}

ProgramBuilder::ValueIndex ProgramBuilder::view(ValueIndex tensor, std::int64_t offset,
                                                const std::vector<std::int64_t>& sizes) {
  const auto& whole = std::get<TensorEntry>(values_.at(static_cast<std::size_t>(tensor)));
  TensorEntry entry{.type = whole.type, .dynamic = true, .memory = whole.memory, .offset = whole.offset + offset};
  for (const std::int64_t size : sizes) {
    entry.sizes.push_back(to_int32(size));
  }
  return append(std::move(entry));
}

void ProgramBuilder::kernel_call(const std::string& name, const std::string& overload,
                                 std::vector<ValueIndex> arguments) {
  const std::pair wanted(name, overload);
  auto position = std::ranges::find(operators_, wanted);
  if (position == operators_.end()) {
    position = operators_.insert(operators_.end(), wanted);
  }
  calls_.push_back(
      {.index = static_cast<std::int32_t>(position - operators_.begin()), .arguments = std::move(arguments)});
  kernel_names_.push_back(overload.empty() ? name : name + "." + overload);
}

void ProgramBuilder::delegate_call(std::string backend, std::vector<ValueIndex> arguments, std::uint32_t payload,
                                   std::vector<std::pair<std::string, std::string>> options) {
  calls_.push_back(
      {.is_delegate = true, .index = static_cast<std::int32_t>(delegates_.size()), .arguments = std::move(arguments)});
  delegates_.push_back({.backend = std::move(backend), .payload = payload, .options = std::move(options)});
}

void ProgramBuilder::add_constant_methods(const std::vector<ConstantMethod>& methods) {
  for (const ConstantMethod& method : methods) {
    if (method.name == method_ || !constant_methods_.emplace(method.name, method).second) {
      throw Error(ErrorCode::kInternal, "ExecuTorch program", "has two methods called '" + method.name + "'");
    }
  }
}

flatbuffers::Offset<schema::EValue> ProgramBuilder::serialize_value(flatbuffers::FlatBufferBuilder& builder,
                                                                    const Entry& entry) {
  if (const auto* integer = std::get_if<IntEntry>(&entry)) {
    return schema::CreateEValue(builder, schema::KernelTypes::Int, schema::CreateInt(builder, integer->value).Union());
  }
  if (const auto* boolean = std::get_if<BoolEntry>(&entry)) {
    return schema::CreateEValue(builder, schema::KernelTypes::Bool,
                                schema::CreateBool(builder, boolean->value).Union());
  }
  if (const auto* integers = std::get_if<IntListEntry>(&entry)) {
    return schema::CreateEValue(builder, schema::KernelTypes::IntList,
                                schema::CreateIntListDirect(builder, &integers->items).Union());
  }
  if (const auto* tensors = std::get_if<TensorListEntry>(&entry)) {
    return schema::CreateEValue(builder, schema::KernelTypes::OptionalTensorList,
                                schema::CreateOptionalTensorListDirect(builder, &tensors->items).Union());
  }
  const auto* tensor = std::get_if<TensorEntry>(&entry);
  if (tensor == nullptr) {
    return schema::CreateEValue(builder, schema::KernelTypes::Null, schema::CreateNull(builder).Union());
  }
  std::vector<std::uint8_t> dim_order(tensor->sizes.size());
  std::iota(dim_order.begin(), dim_order.end(), std::uint8_t{0});
  flatbuffers::Offset<schema::AllocationDetails> allocation;
  if (tensor->memory != 0) {
    const auto offset = static_cast<std::uint64_t>(tensor->offset);
    allocation = schema::CreateAllocationDetails(builder, tensor->memory, static_cast<std::uint32_t>(offset),
                                                 static_cast<std::uint32_t>(offset >> 32U));
  }
  const auto dynamism =
      tensor->dynamic ? schema::TensorShapeDynamism::DYNAMIC_BOUND : schema::TensorShapeDynamism::STATIC;
  flatbuffers::Offset<schema::ExtraTensorInfo> names;
  if (!tensor->name.empty()) {
    names = schema::CreateExtraTensorInfoDirect(builder, 0, tensor->name.c_str());
  }
  const auto table = schema::CreateTensorDirect(builder, tensor->type, 0, &tensor->sizes, &dim_order, false,
                                                tensor->constant, allocation, 0, dynamism, names);
  return schema::CreateEValue(builder, schema::KernelTypes::Tensor, table.Union());
}

flatbuffers::Offset<schema::ExecutionPlan> ProgramBuilder::serialize_plan(flatbuffers::FlatBufferBuilder& builder,
                                                                          std::uint32_t first_payload) const {
  std::vector<flatbuffers::Offset<schema::EValue>> values;
  for (const Entry& entry : values_) {
    values.push_back(serialize_value(builder, entry));
  }
  std::vector<flatbuffers::Offset<schema::Instruction>> instructions;
  for (const Call& call : calls_) {
    const auto type =
        call.is_delegate ? schema::InstructionArguments::DelegateCall : schema::InstructionArguments::KernelCall;
    const auto arguments = call.is_delegate
                               ? schema::CreateDelegateCallDirect(builder, call.index, &call.arguments).Union()
                               : schema::CreateKernelCallDirect(builder, call.index, &call.arguments).Union();
    instructions.push_back(schema::CreateInstruction(builder, type, arguments));
  }
  const std::vector<std::int32_t> none;
  const std::vector chains = {schema::CreateChainDirect(builder, &none, &none, &instructions)};
  std::vector<flatbuffers::Offset<schema::Operator>> operators;
  for (const auto& [name, overload] : operators_) {
    operators.push_back(schema::CreateOperatorDirect(builder, name.c_str(), overload.c_str()));
  }
  std::vector<flatbuffers::Offset<schema::BackendDelegate>> delegates;
  for (const Delegate& delegate : delegates_) {
    std::vector<flatbuffers::Offset<schema::CompileSpec>> specs;
    for (const auto& [key, value] : delegate.options) {
      const std::vector<std::uint8_t> bytes(value.begin(), value.end());
      specs.push_back(schema::CreateCompileSpecDirect(builder, key.c_str(), &bytes));
    }
    const auto payload = schema::CreateBackendDelegateDataReference(builder, schema::DataLocation::SEGMENT,
                                                                    first_payload + delegate.payload);
    delegates.push_back(schema::CreateBackendDelegateDirect(builder, delegate.backend.c_str(), payload, &specs));
  }
  std::vector<std::int64_t> memory = {0, arena_bytes_};
  if (buffer_bytes_ > 0) {
    memory.push_back(buffer_bytes_);
  }
  return schema::CreateExecutionPlanDirect(builder, method_.c_str(),
                                           schema::CreateContainerMetadataDirect(builder, "", ""), &values, &inputs_,
                                           &outputs_, &chains, &operators, &delegates, &memory);
}

std::vector<std::byte> ProgramBuilder::serialize(const Layout& layout) const {
  flatbuffers::FlatBufferBuilder builder;
  // A segment's offset of 0 would be left out of the buffer; the runtime reads it back as 0 all the same.
  std::vector<flatbuffers::Offset<schema::DataSegment>> segments;
  for (const Segment& segment : layout.segments) {
    segments.push_back(schema::CreateDataSegment(builder, static_cast<std::uint64_t>(segment.offset),
                                                 static_cast<std::uint64_t>(segment.size)));
  }
  std::vector<flatbuffers::Offset<schema::NamedData>> named;
  for (const auto& [key, segment] : layout.named) {
    named.push_back(schema::CreateNamedDataDirect(builder, key.c_str(), segment));
  }
  std::vector plans = {serialize_plan(builder, layout.first_payload)};
  for (const auto& [name, method] : constant_methods_) {
    plans.push_back(serialize_constant_method(builder, method));
  }
  const std::vector<flatbuffers::Offset<schema::Buffer>> no_buffers;
  const std::vector<flatbuffers::Offset<schema::BackendDelegateInlineData>> no_inline_data;
  const auto constants =
      schema::CreateSubsegmentOffsetsDirect(builder, layout.constant_segment, &layout.constant_offsets);
  schema::FinishProgramBuffer(builder, schema::CreateProgramDirect(builder, 0, &plans, &no_buffers, &no_inline_data,
                                                                   &segments, constants, nullptr, &named));
  return with_header(builder.GetBufferPointer(), builder.GetSize(), layout);
}

}  // namespace diffulex_edge::executorch
