#include "checkpoint/gguf_tensors.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string_view>
#include <utility>

#include "checkpoint/gguf_blocks.h"
#include "core/small_floats.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

[[noreturn]] void fail(const GgufFile& file, const std::string& tensor, const std::string& what,
                       const std::string& advice = {}, ErrorCode code = ErrorCode::kBadFile) {
  throw Error(code, file.path().string() + ": tensor '" + tensor + "'", what, advice);
}

const GgufBlockType& type_of(const GgufFile& file, const GgufTensor& tensor) {
  const GgufBlockType* type = find_gguf_type(tensor.type);
  if (type == nullptr || type->decode == nullptr) {
    const std::string name = type != nullptr ? std::string(type->name) : "ggml's number " + std::to_string(tensor.type);
    fail(file, tensor.name,
         "is of type " + name + "; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K are read",
         "take a file of one of these types", ErrorCode::kUnsupported);
  }
  return *type;
}

// Its bytes in the file, checked against it.
std::span<const std::byte> bytes_of(const GgufFile& file, const GgufTensor& tensor, const GgufBlockType& type) {
  if (tensor.shape.empty() || std::ranges::find(tensor.shape, 0) != tensor.shape.end()) {
    fail(file, tensor.name, "has the shape " + to_string(static_shape(tensor.shape)) + " and holds nothing");
  }
  if (tensor.shape.back() % type.elements != 0) {
    fail(file, tensor.name,
         "has rows of " + std::to_string(tensor.shape.back()) + " elements, which do not fill the " +
             std::string(type.name) + " blocks of " + std::to_string(type.elements));
  }
  std::optional<std::int64_t> bytes = checked_multiply(tensor.shape.back() / type.elements, type.bytes);
  for (std::size_t i = 0; i + 1 < tensor.shape.size(); ++i) {
    bytes = bytes ? checked_multiply(*bytes, tensor.shape[i]) : bytes;
  }
  const std::uint64_t size = file.data().size();
  if (tensor.offset % file.alignment() != 0) {
    fail(file, tensor.name,
         "begins at byte " + std::to_string(tensor.offset) + " of the data, which is no multiple of " +
             std::to_string(file.alignment()));
  }
  if (!bytes || tensor.offset > size || static_cast<std::uint64_t>(*bytes) > size - tensor.offset) {
    fail(file, tensor.name, "ends beyond the file", "the file is truncated: download it again");
  }
  return file.data().subspan(static_cast<std::size_t>(tensor.offset), static_cast<std::size_t>(*bytes));
}

void check_overlaps(const GgufFile& file, const std::vector<TensorView>& tensors) {
  for (std::size_t i = 1; i < tensors.size(); ++i) {
    const TensorView& before = tensors[i - 1];
    if (before.bytes.data() + before.bytes.size() > tensors[i].bytes.data()) {
      fail(file, tensors[i].name, "overlaps '" + before.name + "'");
    }
  }
}

GgufHeadRows head_rows(const GgufFile& file, const std::string& architecture, const GgufTensor& tensor) {
  const bool is_rotated = architecture == "llama" || architecture == "llada";
  const bool is_query = tensor.name.find(".attn_q.") != std::string::npos;
  const bool is_key = tensor.name.find(".attn_k.") != std::string::npos;
  if (!is_rotated || (!is_query && !is_key)) {
    return {};
  }
  const std::string prefix = architecture + ".attention.";
  const std::int64_t heads = file.integer(prefix + "head_count").value_or(0);
  const std::int64_t count = is_query ? heads : file.integer(prefix + "head_count_kv").value_or(heads);
  const std::int64_t rows = tensor.shape.front();
  if (count < 1 || rows % count != 0 || rows / count % 2 != 0) {
    fail(file, tensor.name,
         "has " + std::to_string(rows) + " rows, which are not " + std::to_string(count) + " heads of an even size");
  }
  return {.head_dim = rows / count};
}

// A tensor of one matrix for each expert as these matrices.
void split_experts(const GgufFile& file, const GgufTensor& tensor, TensorView view, std::vector<TensorView>& target) {
  const std::size_t star = view.name.find('*');
  const std::int64_t experts = view.shape.front();
  const std::int64_t known = file.integer(file.text("general.architecture").value_or("") + ".expert_count").value_or(0);
  constexpr std::int64_t kMostExperts = 65536;
  if (view.shape.size() != 3 || star == std::string::npos || experts != known || experts > kMostExperts) {
    fail(file, tensor.name,
         "has the shape " + to_string(static_shape(view.shape)) + ", which is neither a matrix nor one for each of " +
             std::to_string(known) + " experts");
  }
  const std::size_t bytes = view.bytes.size() / static_cast<std::size_t>(experts);
  for (std::int64_t i = 0; i < experts; ++i) {
    TensorView expert = view;
    expert.name.replace(star, 1, std::to_string(i));
    expert.shape.erase(expert.shape.begin());
    expert.bytes = view.bytes.subspan(static_cast<std::size_t>(i) * bytes, bytes);
    target.push_back(std::move(expert));
  }
}

}  // namespace

GgufWeight::GgufWeight(const TensorView& view, const GgufBlockType& type, GgufHeadRows rows)
    : RowDecoder(view.name, view.shape, "GGUF " + std::string(type.name),
                 std::vector<Part>{{.view = view, .layout = RowLayout::kConsecutive}}),
      type_(type),
      order_(rows) {}

std::span<const std::byte> GgufWeight::blocks(std::int64_t row) const {
  const auto bytes = static_cast<std::size_t>(columns() / type_.elements * type_.bytes);
  const std::int64_t stored = shape().size() == 1 ? 0 : order_.stored(row);
  return part(0).bytes.subspan(static_cast<std::size_t>(stored) * bytes, bytes);
}

void GgufWeight::decode(std::int64_t row_begin, std::int64_t count, std::span<float> target) const {
  const std::int64_t block_count = columns() / type_.elements;
  const bool is_vector = shape().size() == 1;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::span<const std::byte> row = blocks(row_begin + i);
    for (std::int64_t block = 0; block < block_count; ++block) {
      // One-dimensional tensors of heads are one row of as many columns.
      const std::int64_t at = is_vector ? order_.stored(block) : block;
      type_.decode(row.data() + at * type_.bytes, target.data() + i * columns() + block * type_.elements);
    }
  }
}

bool GgufWeight::read_scales(std::int64_t row, std::int64_t group_size, std::span<float> scales) const {
  if (type_.name != "Q4_0" || group_size != type_.elements) {
    return false;
  }
  const std::byte* block = blocks(row).data();
  for (float& scale : scales) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, block, sizeof(bits));
    scale = std::fabs(float_from_f16(bits));
    block += type_.bytes;
  }
  return true;
}

GgufTensors::GgufTensors(const std::filesystem::path& path) : file_(open_gguf(path)) {
  if (const std::int64_t parts = file_->integer("split.count").value_or(0); parts > 1) {
    throw Error(ErrorCode::kUnsupported, path.string(), "is one of " + std::to_string(parts) + " parts of a model",
                "join them with `llama-gguf-split --merge`");
  }
  const std::string architecture = file_->text("general.architecture").value_or("");
  for (const GgufTensor& tensor : file_->tensors()) {
    const GgufBlockType& type = type_of(*file_, tensor);
    const GgufHeadRows order = head_rows(*file_, architecture, tensor);
    TensorView whole{.name = checkpoint_name(architecture, tensor.name),
                     .dtype = type.plain.value_or(DType::kF32),
                     .shape = tensor.shape,
                     .bytes = bytes_of(*file_, tensor, type),
                     .file = &file_->file()};
    std::vector<TensorView> views;
    if (whole.shape.size() == 1 && order.head_dim != 0 && !type.plain) {
      fail(*file_, tensor.name, "is a bias in blocks of " + std::string(type.name));
    }
    if (whole.shape.size() > 2) {
      split_experts(*file_, tensor, std::move(whole), views);
    } else {
      views.push_back(std::move(whole));
    }
    for (TensorView& view : views) {
      if (!type.plain || order.head_dim != 0) {
        decoders_.push_back(std::make_unique<const GgufWeight>(view, type, order));
        view.dtype = DType::kF32;
        view.decoder = decoders_.back().get();
      }
      tensors_.push_back(std::move(view));
    }
  }
  std::ranges::sort(tensors_, {}, [](const TensorView& view) { return view.bytes.data(); });
  check_overlaps(*file_, tensors_);
  // Factors of rotary frequencies are a setting: GGUF's configuration has them.
  std::erase_if(tensors_, [](const TensorView& view) { return view.name == "rope_freqs.weight"; });
}

namespace {

struct Renamed {
  std::string_view gguf;
  std::string_view transformers;
  std::string_view llada;
};

constexpr std::array kTopNames = {
    Renamed{"token_embd", "model.embed_tokens", "model.transformer.wte"},
    Renamed{"output_norm", "model.norm", "model.transformer.ln_f"},
    Renamed{"output", "lm_head", "model.transformer.ff_out"},
};

constexpr std::array kLayerNames = {
    Renamed{"attn_norm", "input_layernorm", "attn_norm"},    Renamed{"attn_q", "self_attn.q_proj", "q_proj"},
    Renamed{"attn_k", "self_attn.k_proj", "k_proj"},         Renamed{"attn_v", "self_attn.v_proj", "v_proj"},
    Renamed{"attn_output", "self_attn.o_proj", "attn_out"},  Renamed{"attn_q_norm", "self_attn.q_norm", "q_norm"},
    Renamed{"attn_k_norm", "self_attn.k_norm", "k_norm"},    Renamed{"ffn_norm", "post_attention_layernorm", "ff_norm"},
    Renamed{"ffn_gate", "mlp.gate_proj", "ff_proj"},         Renamed{"ffn_up", "mlp.up_proj", "up_proj"},
    Renamed{"ffn_down", "mlp.down_proj", "ff_out"},          Renamed{"ffn_gate_inp", "mlp.gate", ""},
    Renamed{"ffn_gate_exps", "mlp.experts.*.gate_proj", ""}, Renamed{"ffn_up_exps", "mlp.experts.*.up_proj", ""},
    Renamed{"ffn_down_exps", "mlp.experts.*.down_proj", ""},
};

template <std::size_t N>
std::optional<std::string> renamed(const std::array<Renamed, N>& names, std::string_view name, bool is_llada) {
  const auto found = std::ranges::find(names, name, &Renamed::gguf);
  return found == names.end() ? std::nullopt
                              : std::optional(std::string(is_llada ? found->llada : found->transformers));
}

}  // namespace

std::string checkpoint_name(const std::string& architecture, const std::string& name) {
  const bool is_llada = architecture == "llada";
  const std::size_t last = name.rfind('.');
  if (last == std::string::npos) {
    return name;
  }
  const std::string ending = name.substr(last);
  constexpr std::string_view kLayer = "blk.";
  if (!name.starts_with(kLayer)) {
    const auto top = renamed(kTopNames, std::string_view(name).substr(0, last), is_llada);
    return top ? *top + ending : name;
  }
  const std::size_t number_end = name.find('.', kLayer.size());
  if (number_end == std::string::npos || number_end >= last) {
    return name;
  }
  const std::string number = name.substr(kLayer.size(), number_end - kLayer.size());
  const auto part =
      renamed(kLayerNames, std::string_view(name).substr(number_end + 1, last - number_end - 1), is_llada);
  const std::string prefix = is_llada ? "model.transformer.blocks." : "model.layers.";
  return part ? prefix + number + "." + *part + ending : name;
}

}  // namespace diffulex_edge
