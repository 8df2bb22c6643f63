#include "runtime/key_value_cache.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/join.h"
#include "diffulex_edge/error.h"
#include "quant/kernels/kernels.h"
#include "runtime/kernels/activation_kernels.h"

namespace diffulex_edge {
namespace {

struct CacheDtypeRow {
  CacheDtype dtype;
  std::string_view name;
  std::int64_t bytes;  // of an element
};
constexpr std::array kCacheDtypes = {
    CacheDtypeRow{CacheDtype::FP32, "fp32", 4},
    CacheDtypeRow{CacheDtype::FP16, "fp16", 2},
    CacheDtypeRow{CacheDtype::INT8, "int8", 1},
};

const CacheDtypeRow& row_of(CacheDtype dtype) { return *std::ranges::find(kCacheDtypes, dtype, &CacheDtypeRow::dtype); }

// Rows of all sequences and heads at one attention.
std::int64_t row_count(const KeyValueCacheOptions& options, std::int64_t heads) {
  return static_cast<std::int64_t>(options.sequences) * heads * options.capacity;
}

std::int64_t scale_bytes(const KeyValueCacheOptions& options, std::int64_t heads) {
  return options.dtype == CacheDtype::INT8 ? row_count(options, heads) * std::int64_t{sizeof(float)} : 0;
}

constexpr float kLargestInt8 = 127.0F;

[[noreturn]] void refuse_size(std::int64_t bytes, const KeyValueCacheOptions& options) {
  throw Error(ErrorCode::kOutOfMemory, "cache",
              "keys and values of " + std::to_string(options.sequences) + " sequences of " +
                  std::to_string(options.capacity) + " tokens take " + std::to_string(bytes) +
                  " bytes, more than this machine has",
              "generate fewer tokens, or keep them in another dtype");
}

// What is taken is used sooner or later: the system would end the process then, without a word.
bool exceeds_memory(std::int64_t bytes) {
  const std::int64_t pages = ::sysconf(_SC_PHYS_PAGES);
  const std::int64_t page = ::sysconf(_SC_PAGE_SIZE);
  return pages > 0 && page > 0 && bytes / page >= pages;
}

}  // namespace

std::string_view to_string(CacheDtype dtype) { return row_of(dtype).name; }

CacheDtype parse_cache_dtype(std::string_view text) {
  const auto* found = std::ranges::find(kCacheDtypes, text, &CacheDtypeRow::name);
  if (found == kCacheDtypes.end()) {
    throw Error(ErrorCode::kInvalidArgument, "cache dtype",
                "'" + std::string(text) + "' is not one of " + join(kCacheDtypes, ", ", &CacheDtypeRow::name));
  }
  return found->dtype;
}

void KeyValueCache::Free::operator()(std::byte* memory) const { std::free(memory); }

std::int64_t KeyValueCache::bytes(const Graph& graph, const KeyValueCacheOptions& options) {
  std::int64_t total = 0;
  for (const Node& node : graph.nodes()) {
    if (node.op == Op::kAttention) {
      const Shape& keys = graph.shape(node.inputs[1]);
      const std::int64_t elements = row_count(options, keys[1].value) * keys[2].value * row_of(options.dtype).bytes;
      total += 2 * (elements + scale_bytes(options, keys[1].value));
    }
  }
  return total;
}

KeyValueCache::KeyValueCache(const Graph& graph, const KeyValueCacheOptions& options)
    : options_(options), bytes_(bytes(graph, options)), lengths_(options.sequences, 0), layers_(graph.nodes().size()) {
  if (exceeds_memory(bytes_)) {
    refuse_size(bytes_, options);
  }
  // Pages that are never written take no memory: calloc() gets them from the system as they are.
  const auto allocate = [&](std::int64_t count) {
    Memory memory(static_cast<std::byte*>(std::calloc(static_cast<std::size_t>(std::max<std::int64_t>(count, 1)), 1)));
    if (memory == nullptr) {
      refuse_size(bytes_, options);
    }
    return memory;
  };
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (graph.nodes()[i].op != Op::kAttention) {
      continue;
    }
    const Shape& keys = graph.shape(graph.nodes()[i].inputs[1]);
    Layer& layer = layers_[i];
    layer.heads = keys[1].value;
    layer.dim = keys[2].value;
    for (Tensor* tensor : {&layer.keys, &layer.values}) {
      tensor->elements = allocate(row_count(options, layer.heads) * layer.dim * row_of(options.dtype).bytes);
      tensor->scales = allocate(scale_bytes(options, layer.heads));
    }
  }
}

void KeyValueCache::write(ValueId attention, std::size_t sequence, std::int64_t start, std::int64_t count,
                          const float* keys, const float* values) {
  Layer& layer = layers_[static_cast<std::size_t>(attention)];
  for (std::int64_t head = 0; head < layer.heads; ++head) {
    const std::int64_t first = (static_cast<std::int64_t>(sequence) * layer.heads + head) * options_.capacity + start;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t source = (i * layer.heads + head) * layer.dim;
      write_row(layer.keys, first + i, layer.dim, keys + source);
      write_row(layer.values, first + i, layer.dim, values + source);
    }
  }
}

void KeyValueCache::write_row(Tensor& tensor, std::int64_t row, std::int64_t dim, const float* source) const {
  const auto n = static_cast<std::size_t>(dim);
  std::byte* target = tensor.elements.get() + row * dim * row_of(options_.dtype).bytes;
  switch (options_.dtype) {
    case CacheDtype::FP32:
      std::memcpy(target, source, n * sizeof(float));
      return;
    case CacheDtype::FP16:
      kernels::f32_to_f16_saturate(source, reinterpret_cast<std::uint16_t*>(target), n);
      return;
    case CacheDtype::INT8:
      break;
  }
  const float scale = kernels::f32_abs_max(source, n) / kLargestInt8;
  reinterpret_cast<float*>(tensor.scales.get())[row] = scale;
  auto* integers = reinterpret_cast<std::int8_t*>(target);
  if (scale > 0.0F) {
    kernels::quantize_row_static_i8(source, integers, n, scale, 0);
  } else {
    std::fill_n(integers, n, std::int8_t{0});
  }
}

const float* KeyValueCache::rows(Part part, ValueId attention, std::size_t sequence, std::int64_t head,
                                 std::int64_t begin, std::int64_t count, std::span<float> scratch) const {
  const Layer& layer = layers_[static_cast<std::size_t>(attention)];
  const Tensor& tensor = part == Part::kKeys ? layer.keys : layer.values;
  const std::int64_t first = (static_cast<std::int64_t>(sequence) * layer.heads + head) * options_.capacity + begin;
  const std::byte* source = tensor.elements.get() + first * layer.dim * row_of(options_.dtype).bytes;
  switch (options_.dtype) {
    case CacheDtype::FP32:
      return reinterpret_cast<const float*>(source);
    case CacheDtype::FP16:
      kernels::f16_to_f32(reinterpret_cast<const std::uint16_t*>(source), scratch.data(),
                          static_cast<std::size_t>(count * layer.dim));
      return scratch.data();
    case CacheDtype::INT8:
      break;
  }
  const auto* integers = reinterpret_cast<const std::int8_t*>(source);
  const auto* scales = reinterpret_cast<const float*>(tensor.scales.get()) + first;
  for (std::int64_t i = 0; i < count; ++i) {
    kernels::dequantize_row_i8(integers + i * layer.dim, scales[i], scratch.data() + i * layer.dim,
                               static_cast<std::size_t>(layer.dim));
  }
  return scratch.data();
}

}  // namespace diffulex_edge
