#include "backends/executorch/program_reader.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "backends/flatbuffer_fields.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/error.h"
#include "executorch_program_generated.h"

namespace diffulex_edge::executorch {
namespace {

constexpr std::size_t kIdentifierAt = 4;
constexpr std::size_t kHeaderAt = 8;
constexpr std::size_t kHeaderBytes = 32;
constexpr const char* kListType = "\"builtins.list\"";  // in PyTorch's description of a method's outputs

using flat::integers;
using flat::list;
using flat::load;
using flat::text;

std::vector<DelegateReader> delegate_readers() {
  std::vector<DelegateReader> readers;
  for (const BackendDescription& backend : BackendRegistry::instance().descriptions()) {
    readers.insert(readers.end(), backend.delegates.begin(), backend.delegates.end());
  }
  return readers;
}

class ProgramReader {
 public:
  ProgramReader(std::span<const std::byte> file, const std::string& name) : file_(file), name_(name) {}

  ProgramContents read() {
    program_ = verified_program();
    for (const schema::NamedData* named : list(program_->named_data())) {
      named_.emplace(text(named->key()), named->segment_index());
    }
    for (const schema::ExecutionPlan* plan : list(program_->execution_plan())) {
      if (!names_.insert(text(plan->name())).second) {
        fail("the method '" + text(plan->name()) + "' is there twice");
      }
      if (is_constant(*plan)) {
        read_constant(*plan);
      } else {
        read_method(*plan);
      }
    }
    return std::move(contents_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::kBadFile, name_, what, "the file is truncated or damaged");
  }

  const schema::Program* verified_program() {
    std::uint64_t program_size = file_.size();
    if (std::memcmp(file_.data() + kHeaderAt, "eh00", 4) == 0) {
      if (file_.size() < kHeaderAt + kHeaderBytes) {
        fail("the header is cut off");
      }
      program_size = load<std::uint64_t>(file_, 16);
      segment_base_ = load<std::uint64_t>(file_, 24);
      const bool has_data_size = load<std::uint32_t>(file_, 12) >= kHeaderBytes;
      const std::uint64_t data_size = has_data_size ? load<std::uint64_t>(file_, 32) : 0;
      if (program_size > file_.size() || segment_base_ > file_.size() || data_size > file_.size() - segment_base_) {
        fail("the header's sizes exceed the file's " + std::to_string(file_.size()) + " bytes");
      }
    }
    if (program_size >= FLATBUFFERS_MAX_BUFFER_SIZE) {
      fail("the program's flatbuffer claims " + std::to_string(program_size) +
           " bytes, more than a flatbuffer can have");
    }
    flatbuffers::Verifier verifier(reinterpret_cast<const std::uint8_t*>(file_.data()), program_size, 128, 100'000'000);
    if (!schema::VerifyProgramBuffer(verifier)) {
      fail("the program's flatbuffer is not valid");
    }
    return schema::GetProgram(file_.data());
  }

  std::span<const std::byte> segment(std::uint32_t index) const {
    const auto* segments = program_->segments();
    if (segments == nullptr || index >= segments->size()) {
      fail("segment " + std::to_string(index) + " does not exist");
    }
    const std::uint64_t offset = segments->Get(index)->offset();
    const std::uint64_t size = segments->Get(index)->size();
    if (offset > file_.size() - segment_base_ || size > file_.size() - segment_base_ - offset) {
      fail("segment " + std::to_string(index) + " lies beyond the end of the file");
    }
    return file_.subspan(segment_base_ + offset, size);
  }

  const schema::EValue& value(const schema::ExecutionPlan& plan, std::int64_t index) const {
    const auto* values = plan.values();
    if (index < 0 || values == nullptr || static_cast<std::uint64_t>(index) >= values->size()) {
      fail("value " + std::to_string(index) + " does not exist");
    }
    return *values->Get(static_cast<std::uint32_t>(index));
  }

  InspectedValue describe(const schema::ExecutionPlan& plan, std::int64_t index) const {
    const schema::Tensor* tensor = value(plan, index).val_as_Tensor();
    if (tensor == nullptr) {
      return {.dtype = schema::EnumNameKernelTypes(value(plan, index).val_type())};
    }
    const std::vector<std::int64_t> sizes = integers(tensor->sizes());
    if (std::ranges::any_of(sizes, [](std::int64_t size) { return size < 0; })) {
      fail("value " + std::to_string(index) + " has a negative size");
    }
    return {.dtype = schema::EnumNameScalarType(tensor->scalar_type()),
            .shape = sizes,
            .dynamic = tensor->shape_dynamism() != schema::TensorShapeDynamism::STATIC};
  }

  // Without inputs and instructions, and its outputs are no tensors.
  bool is_constant(const schema::ExecutionPlan& plan) const {
    const std::vector<std::int64_t> outputs = integers(plan.outputs());
    const auto computes = [](const schema::Chain* chain) { return !list(chain->instructions()).empty(); };
    return integers(plan.inputs()).empty() && !outputs.empty() && list(plan.delegates()).empty() &&
           std::ranges::none_of(list(plan.chains()), computes) && std::ranges::all_of(outputs, [&](std::int64_t index) {
             const schema::KernelTypes type = value(plan, index).val_type();
             return type == schema::KernelTypes::Int || type == schema::KernelTypes::Bool ||
                    type == schema::KernelTypes::Double || type == schema::KernelTypes::String;
           });
  }

  void read_constant(const schema::ExecutionPlan& plan) {
    InspectedConstant constant{.name = text(plan.name())};
    const std::vector<std::int64_t> outputs = integers(plan.outputs());
    for (const std::int64_t index : outputs) {
      const schema::EValue& found = value(plan, index);
      if (found.val() == nullptr ||
          (found.val_as_String() != nullptr && found.val_as_String()->string_val() == nullptr)) {
        fail("the method '" + constant.name + "' returns a value that is missing");
      }
      constant.values.push_back(constant_value(found));
    }
    const schema::ContainerMetadata* container = plan.container_meta_type();
    const bool says_list =
        container != nullptr && text(container->encoded_out_str()).find(kListType) != std::string::npos;
    constant.is_list = says_list || outputs.size() != 1;
    contents_.metadata.push_back(std::move(constant));
  }

  static InspectedConstant::Value constant_value(const schema::EValue& found) {
    if (const schema::Int* number = found.val_as_Int()) {
      return number->int_val();
    }
    if (const schema::Bool* truth = found.val_as_Bool()) {
      return truth->bool_val();
    }
    if (const schema::Double* number = found.val_as_Double()) {
      return number->double_val();
    }
    return text(found.val_as_String()->string_val());
  }

  void read_method(const schema::ExecutionPlan& plan) {
    InspectedMethod method{.name = text(plan.name())};
    for (const std::int64_t index : integers(plan.inputs())) {
      method.inputs.push_back(describe(plan, index));
    }
    for (const std::int64_t index : integers(plan.outputs())) {
      method.outputs.push_back(describe(plan, index));
    }
    for (const std::int64_t bytes : integers(plan.non_const_buffer_sizes())) {
      const auto sum = checked_add(method.arena_bytes, bytes);
      if (!sum) {
        fail("a buffer of " + std::to_string(bytes) + " bytes is impossible");
      }
      method.arena_bytes = *sum;
    }
    const auto operators = list(plan.operators());
    for (const schema::Chain* chain : list(plan.chains())) {
      for (const schema::Instruction* instruction : list(chain->instructions())) {
        if (const schema::KernelCall* call = instruction->instr_args_as_KernelCall()) {
          if (call->op_index() < 0 || static_cast<std::size_t>(call->op_index()) >= operators.size()) {
            fail("operator " + std::to_string(call->op_index()) + " does not exist");
          }
          const schema::Operator& op = *operators[static_cast<std::size_t>(call->op_index())];
          const std::string overload = text(op.overload());
          method.operators.push_back(text(op.name()) + (overload.empty() ? "" : "." + overload));
        }
      }
    }
    for (const schema::BackendDelegate* delegate : list(plan.delegates())) {
      method.delegates.push_back(read_delegate(*delegate));
    }
    read_constant_tensors(plan);
    contents_.methods.push_back(std::move(method));
  }

  InspectedDelegate read_delegate(const schema::BackendDelegate& delegate) {
    InspectedDelegate result{.id = text(delegate.id())};
    for (const schema::CompileSpec* spec : list(delegate.compile_specs())) {
      const auto* value = spec->value();
      std::string bytes = value == nullptr ? std::string() : std::string(value->begin(), value->end());
      const auto is_text = [](unsigned char byte) { return byte >= 0x20 && byte < 0x7F; };
      if (!std::ranges::all_of(bytes, is_text)) {
        bytes = std::to_string(bytes.size()) + " bytes";  // QNN's is a flatbuffer
      }
      result.compile_specs[text(spec->key())] = std::move(bytes);
    }
    if (delegate.processed() == nullptr || delegate.processed()->location() != schema::DataLocation::SEGMENT) {
      return result;
    }
    const std::span<const std::byte> payload = segment(delegate.processed()->index());
    result.bytes = static_cast<std::int64_t>(payload.size());
    const auto reader = std::ranges::find(readers_, result.id, &DelegateReader::id);
    if (reader != readers_.end()) {
      read_payload(payload, *reader, result);
    }
    return result;
  }

  void read_payload(std::span<const std::byte> payload, const DelegateReader& reader, InspectedDelegate& delegate) {
    DelegateContents contents = reader.read(
        {.bytes = payload, .file = name_, .named_data = [this](const std::string& key) { return named_data(key); }});
    delegate.nodes = std::move(contents.found.nodes);
    delegate.values = std::move(contents.found.values);
    if (!sources_.insert(contents.source.data()).second) {
      return;  // another delegate has the same
    }
    delegate.files = std::move(contents.found.files);
    delegate.models = std::move(contents.found.models);
    for (std::size_t i = 0; i < contents.tensors.size(); ++i) {
      InspectedTensor& tensor = contents.tensors[i];
      add_weight(std::move(tensor.name), std::move(tensor.dtype), std::move(tensor.shape), tensor.group_size,
                 contents.bytes[i]);
    }
  }

  std::span<const std::byte> named_data(const std::string& key) const {
    const auto found = named_.find(key);
    if (found == named_.end()) {
      fail("the named data '" + key + "' is missing");
    }
    return segment(found->second);
  }

  // Constants of operators outside delegates, such as the embedding's table.
  void read_constant_tensors(const schema::ExecutionPlan& plan) {
    const schema::SubsegmentOffsets* constants = program_->constant_segment();
    if (constants == nullptr || constants->offsets() == nullptr) {
      return;
    }
    for (const schema::EValue* entry : list(plan.values())) {
      const schema::Tensor* tensor = entry->val_as_Tensor();
      if (tensor == nullptr || tensor->data_buffer_idx() == 0) {
        continue;
      }
      if (tensor->data_buffer_idx() >= constants->offsets()->size()) {
        fail("constant tensor " + std::to_string(tensor->data_buffer_idx()) + " does not exist");
      }
      const std::span<const std::byte> whole = segment(constants->segment_index());
      const std::uint64_t offset = constants->offsets()->Get(tensor->data_buffer_idx());
      const auto bytes = tensor_bytes(*tensor);
      if (!bytes || offset > whole.size() || static_cast<std::uint64_t>(*bytes) > whole.size() - offset) {
        fail("constant tensor " + std::to_string(tensor->data_buffer_idx()) + " lies beyond its segment");
      }
      if (*bytes == 0) {
        continue;  // only its shape matters
      }
      const schema::ExtraTensorInfo* info = tensor->extra_tensor_info();
      std::string name = info == nullptr ? std::string() : text(info->fully_qualified_name());
      add_weight(name.empty() ? "constant tensor " + std::to_string(tensor->data_buffer_idx()) : std::move(name),
                 schema::EnumNameScalarType(tensor->scalar_type()), integers(tensor->sizes()), 0,
                 whole.subspan(offset, static_cast<std::size_t>(*bytes)));
    }
  }

  static std::optional<std::int64_t> tensor_bytes(const schema::Tensor& tensor) {
    static const std::map<schema::ScalarType, std::int64_t> kBytes = {
        {schema::ScalarType::BYTE, 1},   {schema::ScalarType::CHAR, 1}, {schema::ScalarType::BOOL, 1},
        {schema::ScalarType::SHORT, 2},  {schema::ScalarType::HALF, 2}, {schema::ScalarType::BFLOAT16, 2},
        {schema::ScalarType::UINT16, 2}, {schema::ScalarType::INT, 4},  {schema::ScalarType::FLOAT, 4},
        {schema::ScalarType::UINT32, 4}, {schema::ScalarType::LONG, 8}, {schema::ScalarType::DOUBLE, 8},
        {schema::ScalarType::UINT64, 8}};
    const auto found = kBytes.find(tensor.scalar_type());
    std::optional<std::int64_t> bytes = found == kBytes.end() ? std::nullopt : std::optional(found->second);
    for (const std::int64_t size : integers(tensor.sizes())) {
      bytes = bytes ? checked_multiply(*bytes, size) : bytes;
    }
    return bytes;
  }

  void add_weight(std::string name, std::string type, std::vector<std::int64_t> shape, std::int64_t group_size,
                  std::span<const std::byte> bytes) {
    const std::pair key(name, bytes.data());
    if (!seen_.insert(key).second) {
      return;
    }
    contents_.weights.push_back({.name = std::move(name),
                                 .dtype = std::move(type),
                                 .shape = std::move(shape),
                                 .group_size = group_size,
                                 .bytes = static_cast<std::int64_t>(bytes.size()),
                                 .offset = bytes.data() - file_.data()});
  }

  std::span<const std::byte> file_;
  const std::string& name_;
  const schema::Program* program_ = nullptr;
  std::uint64_t segment_base_ = 0;
  std::map<std::string, std::uint32_t> named_;
  ProgramContents contents_;
  std::set<std::string> names_;  // of methods
  std::set<std::pair<std::string, const std::byte*>> seen_;
  std::set<const std::byte*> sources_;  // of delegates' contents
  std::vector<DelegateReader> readers_ = delegate_readers();
};

}  // namespace

bool is_program(std::span<const std::byte> file) {
  return file.size() > kHeaderAt + 4 && std::memcmp(file.data() + kIdentifierAt, "ET12", 4) == 0;
}

ProgramContents read_program(std::span<const std::byte> file, const std::string& name) {
  return ProgramReader(file, name).read();
}

}  // namespace diffulex_edge::executorch
