#include "backends/xnnpack/payload_reader.h"

#include <cstring>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "backends/flatbuffer_fields.h"
#include "diffulex_edge/error.h"
#include "xnnpack_graph_generated.h"

namespace diffulex_edge::xnnpack {
namespace {

namespace xnn = schema;

using flat::integers;
using flat::list;
using flat::load;
using flat::text;

class PayloadReader {
 public:
  explicit PayloadReader(const DelegatePayload& payload) : payload_(payload) {}

  DelegateContents read() {
    const std::span<const std::byte> payload = payload_.bytes;
    contents_.source = payload;
    constexpr std::size_t kXnnHeaderBytes = 30;
    if (payload.size() < kXnnHeaderBytes || std::memcmp(payload.data() + 4, "XH00", 4) != 0) {
      return std::move(contents_);  // an older layout without a header
    }
    const std::uint64_t offset = load<std::uint32_t>(payload, 10);
    const std::uint64_t size = load<std::uint32_t>(payload, 14);
    const std::uint64_t constants = load<std::uint32_t>(payload, 18);
    if (offset > payload.size() || size >= FLATBUFFERS_MAX_BUFFER_SIZE || size > payload.size() - offset ||
        constants > payload.size()) {
      fail("the XNNPACK payload's sizes exceed it");
    }
    std::vector<std::uint64_t> buffer((size + 7) / 8);  // a copy, aligned as flatbuffers needs it
    std::memcpy(buffer.data(), payload.data() + offset, size);
    const auto* data = reinterpret_cast<const std::uint8_t*>(buffer.data());
    flatbuffers::Verifier verifier(data, size, 128, 100'000'000);
    if (size < 8 || !xnn::VerifyGraphBuffer(verifier)) {
      fail("the XNNPACK payload's flatbuffer is not valid");
    }
    const xnn::Graph* graph = xnn::GetGraph(data);
    for (const xnn::Node* node : list(graph->xnodes())) {
      ++contents_.found.nodes[xnn::EnumNameNodeUnion(node->xnode_union_type())];
    }
    read_values(*graph, constants);
    return std::move(contents_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::kBadFile, payload_.file, what, "the file is truncated or damaged");
  }

  // A constant and where its bytes are; index 0 is none.
  void add_constant(const xnn::Graph& graph, std::uint64_t base, std::uint32_t index, const std::string& type,
                    std::vector<std::int64_t> shape, std::int64_t group_size) {
    if (index == 0) {
      return;
    }
    const std::string name = "constant " + std::to_string(index);
    const auto* constants = graph.constant_data();
    if (constants == nullptr || index >= constants->size()) {
      fail(name + " of the XNNPACK payload does not exist");
    }
    const xnn::ConstantData& constant = *constants->Get(index);
    const std::span<const std::byte> bytes = bytes_of(constant, base, name);
    const auto needed = constant_bytes(type, shape);
    if (!needed || static_cast<std::uint64_t>(*needed) > constant.size()) {
      fail(name + " of the XNNPACK payload has " + std::to_string(constant.size()) + " bytes, and its type " + type +
           " and shape need " + (needed ? std::to_string(*needed) : "over 2^63"));
    }
    const std::string key = text(constant.named_key());
    contents_.tensors.push_back(
        {.name = key.empty() ? name : key, .dtype = type, .shape = std::move(shape), .group_size = group_size});
    contents_.bytes.push_back(bytes);
  }

  std::span<const std::byte> bytes_of(const xnn::ConstantData& constant, std::uint64_t base,
                                      const std::string& name) const {
    const std::span<const std::byte> payload = payload_.bytes;
    std::span<const std::byte> bytes;
    if (constant.offset() == UINT64_MAX) {
      bytes = payload_.named_data(text(constant.named_key()));
    } else if (constant.offset() <= payload.size() - base) {
      bytes = payload.subspan(base + constant.offset());
    } else {
      fail(name + " of the XNNPACK payload begins at byte " + std::to_string(constant.offset()) +
           " of its data, which has " + std::to_string(payload.size() - base));
    }
    if (constant.size() > bytes.size()) {
      fail(name + " of the XNNPACK payload is larger than its data");
    }
    return bytes.first(constant.size());
  }

  void read_values(const xnn::Graph& graph, std::uint64_t base) {
    for (const xnn::Value* value : list(graph.xvalues())) {
      const xnn::QuantizedTensorValue* quantized = value->xvalue_union_as_QuantizedTensorValue();
      const xnn::TensorValue* tensor =
          quantized != nullptr ? quantized->tensor_value() : value->xvalue_union_as_TensorValue();
      if (tensor == nullptr) {
        continue;
      }
      if (tensor->constant_buffer_idx() == 0) {
        ++contents_.found.values[xnn::EnumNameDatatype(tensor->datatype())];
      }
      const xnn::PerChannelGroupQuant* groups =
          quantized != nullptr ? quantized->quant_params_as_PerChannelGroupQuant() : nullptr;
      const std::int64_t group_size = groups != nullptr ? groups->group_size() : 0;
      add_constant(graph, base, tensor->constant_buffer_idx(), xnn::EnumNameDatatype(tensor->datatype()),
                   integers(tensor->dims()), group_size);
      if (groups != nullptr) {
        add_constant(graph, base, groups->scale_buffer_idx(), "bf16", {groups->num_scales()}, 0);
      }
    }
  }

  // The least that a constant of XNNPACK has, 4-bit rows packed one by one or together; nullopt beyond 63 bits. Types
  // that are not known here need nothing.
  static std::optional<std::int64_t> constant_bytes(std::string_view type, const std::vector<std::int64_t>& shape) {
    static const std::map<std::string_view, std::int64_t> kBits = {
        {"fp32", 32}, {"int32", 32}, {"qint32", 32}, {"qcint32", 32}, {"fp16", 16},  {"bf16", 16},
        {"qint8", 8}, {"quint8", 8}, {"qcint8", 8},  {"qpint8", 8},   {"qcint4", 4}, {"qbint4", 4}};
    const auto found = kBits.find(type);
    std::optional<std::int64_t> bits = found == kBits.end() ? 0 : found->second;
    for (const std::int64_t size : shape) {
      bits = bits ? checked_multiply(*bits, size) : bits;
    }
    return bits ? std::optional((*bits + 7) / 8) : std::nullopt;
  }

  const DelegatePayload& payload_;
  DelegateContents contents_;
};

}  // namespace

DelegateContents read_payload(const DelegatePayload& payload) { return PayloadReader(payload).read(); }

}  // namespace diffulex_edge::xnnpack
