#include "checkpoint/gguf_blocks.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/small_floats.h"

namespace diffulex_edge {
namespace {

constexpr int kSmall = 32;   // elements of a block
constexpr int kLarge = 256;  // and of a block of the K formats

float half_at(const std::byte* data) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, data, sizeof(bits));
  return float_from_f16(bits);
}

unsigned byte_at(const std::byte* data, std::ptrdiff_t index) { return std::to_integer<unsigned>(data[index]); }

int signed_at(const std::byte* data, std::ptrdiff_t index) { return static_cast<std::int8_t>(byte_at(data, index)); }

// Element i of 32 has the low nibble of byte i where i < 16, else the high one of byte i - 16.
int nibble_at(const std::byte* data, int index) {
  const unsigned byte = byte_at(data, index % 16);
  return static_cast<int>(index < 16 ? byte & 0xFU : byte >> 4U);
}

void decode_f16(const std::byte* block, float* target) { *target = half_at(block); }

void decode_bf16(const std::byte* block, float* target) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, block, sizeof(bits));
  *target = float_from_bf16(bits);
}

void decode_f32(const std::byte* block, float* target) { std::memcpy(target, block, sizeof(float)); }

void decode_q8_0(const std::byte* block, float* target) {
  const float scale = half_at(block);
  for (int i = 0; i < kSmall; ++i) {
    target[i] = static_cast<float>(signed_at(block + 2, i)) * scale;
  }
}

void decode_q4_0(const std::byte* block, float* target) {
  const float scale = half_at(block);
  for (int i = 0; i < kSmall; ++i) {
    target[i] = static_cast<float>(nibble_at(block + 2, i) - 8) * scale;
  }
}

void decode_q4_1(const std::byte* block, float* target) {
  const float scale = half_at(block);
  const float minimum = half_at(block + 2);
  for (int i = 0; i < kSmall; ++i) {
    target[i] = static_cast<float>(nibble_at(block + 4, i)) * scale + minimum;
  }
}

// The fifth bits of 32 elements, in one word.
int fifth_bit(const std::byte* data, int index) {
  return static_cast<int>(byte_at(data, index / 8) >> static_cast<unsigned>(index % 8) & 1U) << 4;
}

void decode_q5_0(const std::byte* block, float* target) {
  const float scale = half_at(block);
  for (int i = 0; i < kSmall; ++i) {
    target[i] = static_cast<float>((nibble_at(block + 6, i) | fifth_bit(block + 2, i)) - 16) * scale;
  }
}

void decode_q5_1(const std::byte* block, float* target) {
  const float scale = half_at(block);
  const float minimum = half_at(block + 2);
  for (int i = 0; i < kSmall; ++i) {
    target[i] = static_cast<float>(nibble_at(block + 8, i) | fifth_bit(block + 4, i)) * scale + minimum;
  }
}

struct ScaleAndMinimum {
  unsigned scale;
  unsigned minimum;
};

// Scales and minima of 8 groups have 6 bits each, in 12 bytes: the lower 4 groups in 4 + 4 bytes, and the upper ones'
// low nibbles in 4 more, their two high bits above those of the lower groups.
ScaleAndMinimum packed_scale(const std::byte* packed, int group) {
  if (group < 4) {
    return {byte_at(packed, group) & 63U, byte_at(packed, group + 4) & 63U};
  }
  const unsigned low = byte_at(packed, group + 4);
  return {(low & 0xFU) | (byte_at(packed, group - 4) >> 6U << 4U), (low >> 4U) | (byte_at(packed, group) >> 6U << 4U)};
}

// Groups of 32: a pair of groups has its low and its high nibbles in the same 32 bytes; `high` has each group's fifth
// bit in a bit of its own, or is nullptr.
void decode_q4_or_q5_k(const std::byte* block, const std::byte* high, const std::byte* nibbles, float* target) {
  const float scale = half_at(block);
  const float minimum = half_at(block + 2);
  for (int group = 0; group < 8; ++group) {
    const ScaleAndMinimum packed = packed_scale(block + 4, group);
    const float group_scale = scale * static_cast<float>(packed.scale);
    const float group_minimum = minimum * static_cast<float>(packed.minimum);
    for (int i = 0; i < kSmall; ++i) {
      const unsigned byte = byte_at(nibbles, group / 2 * kSmall + i);
      unsigned value = group % 2 == 0 ? byte & 0xFU : byte >> 4U;
      if (high != nullptr) {
        value |= (byte_at(high, i) >> static_cast<unsigned>(group) & 1U) << 4U;
      }
      target[group * kSmall + i] = group_scale * static_cast<float>(value) - group_minimum;
    }
  }
}

void decode_q4_k(const std::byte* block, float* target) { decode_q4_or_q5_k(block, nullptr, block + 16, target); }

void decode_q5_k(const std::byte* block, float* target) { decode_q4_or_q5_k(block, block + 16, block + 48, target); }

// Two halves of 128 elements; in each, four runs of 32: run r has nibble r / 2 of byte i of 64 (with r odd, the second
// 32), and bits 2r, 2r + 1 of byte i of 32 above it. 16 elements share a scale.
void decode_q6_k(const std::byte* block, float* target) {
  const std::byte* scales = block + 192;
  const float scale = half_at(block + 208);
  for (std::ptrdiff_t half = 0; half < 2; ++half) {
    const std::byte* low = block + half * 64;
    const std::byte* high = block + 128 + half * 32;
    for (std::ptrdiff_t run = 0; run < 4; ++run) {
      for (int i = 0; i < kSmall; ++i) {
        const unsigned byte = byte_at(low, run % 2 * kSmall + i);
        const unsigned nibble = run < 2 ? byte & 0xFU : byte >> 4U;
        const unsigned top = byte_at(high, i) >> static_cast<unsigned>(2 * run) & 3U;
        const int value = static_cast<int>(nibble | top << 4U) - 32;
        const float group_scale = scale * static_cast<float>(signed_at(scales, half * 8 + run * 2 + i / 16));
        target[half * 128 + run * kSmall + i] = group_scale * static_cast<float>(value);
      }
    }
  }
}

constexpr std::array kTypes = {
    GgufBlockType{.type = 0, .name = "F32", .elements = 1, .bytes = 4, .decode = decode_f32, .plain = DType::kF32},
    GgufBlockType{.type = 1, .name = "F16", .elements = 1, .bytes = 2, .decode = decode_f16, .plain = DType::kF16},
    GgufBlockType{.type = 2, .name = "Q4_0", .elements = kSmall, .bytes = 18, .decode = decode_q4_0},
    GgufBlockType{.type = 3, .name = "Q4_1", .elements = kSmall, .bytes = 20, .decode = decode_q4_1},
    GgufBlockType{.type = 6, .name = "Q5_0", .elements = kSmall, .bytes = 22, .decode = decode_q5_0},
    GgufBlockType{.type = 7, .name = "Q5_1", .elements = kSmall, .bytes = 24, .decode = decode_q5_1},
    GgufBlockType{.type = 8, .name = "Q8_0", .elements = kSmall, .bytes = 34, .decode = decode_q8_0},
    GgufBlockType{.type = 9, .name = "Q8_1"},
    GgufBlockType{.type = 10, .name = "Q2_K"},
    GgufBlockType{.type = 11, .name = "Q3_K"},
    GgufBlockType{.type = 12, .name = "Q4_K", .elements = kLarge, .bytes = 144, .decode = decode_q4_k},
    GgufBlockType{.type = 13, .name = "Q5_K", .elements = kLarge, .bytes = 176, .decode = decode_q5_k},
    GgufBlockType{.type = 14, .name = "Q6_K", .elements = kLarge, .bytes = 210, .decode = decode_q6_k},
    GgufBlockType{.type = 15, .name = "Q8_K"},
    GgufBlockType{.type = 16, .name = "IQ2_XXS"},
    GgufBlockType{.type = 17, .name = "IQ2_XS"},
    GgufBlockType{.type = 18, .name = "IQ3_XXS"},
    GgufBlockType{.type = 19, .name = "IQ1_S"},
    GgufBlockType{.type = 20, .name = "IQ4_NL"},
    GgufBlockType{.type = 21, .name = "IQ3_S"},
    GgufBlockType{.type = 22, .name = "IQ2_S"},
    GgufBlockType{.type = 23, .name = "IQ4_XS"},
    GgufBlockType{.type = 29, .name = "IQ1_M"},
    GgufBlockType{.type = 30, .name = "BF16", .elements = 1, .bytes = 2, .decode = decode_bf16, .plain = DType::kBF16},
    GgufBlockType{.type = 34, .name = "TQ1_0"},
    GgufBlockType{.type = 35, .name = "TQ2_0"},
    GgufBlockType{.type = 39, .name = "MXFP4"},
};

}  // namespace

const GgufBlockType* find_gguf_type(std::uint32_t type) {
  const auto* found = std::ranges::find(kTypes, type, &GgufBlockType::type);
  return found == kTypes.end() ? nullptr : found;
}

}  // namespace diffulex_edge
