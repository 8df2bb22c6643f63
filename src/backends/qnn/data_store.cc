#include "backends/qnn/data_store.h"

#include <algorithm>
#include <string_view>

#include "diffulex_edge/error.h"
#include "quant/weight_decoder.h"

namespace diffulex_edge::qnn {
namespace {

// Blocks of MatMulNBits are powers of two.
constexpr std::int64_t kLeastBlock = 16;
constexpr std::int64_t kLargestBlock = 256;

// For a row with one scale: the largest block that divides it.
std::int64_t block_of_row(const LayerPlan& plan) {
  for (std::int64_t block = kLargestBlock; block >= kLeastBlock; block /= 2) {
    if (plan.columns % block == 0) {
      return block;
    }
  }
  throw Error(ErrorCode::kUnsupported, plan.layer,
              "rows of " + std::to_string(plan.columns) +
                  " weights are not multiples of 16, which integer weights beside floating-point activations need",
              "use --mode static, or exclude the layer");
}

// What two uses of a weight must have in common, beside its format, to be stored once.
std::string_view layout_of(Packing packing) {
  switch (packing) {
    case Packing::kFloat32:
    case Packing::kFloat16:
      return "float";
    case Packing::kSigned:
      return "signed";
    case Packing::kUnsigned:
    case Packing::kBlocks:
      break;
  }
  return "unsigned";
}

}  // namespace

StoredMatrix DataStore::add_matrix(const LayerPlan& plan, Packing packing) {
  const bool is_float = packing == Packing::kFloat32 || packing == Packing::kFloat16;
  if (!is_float && !plan.format.fills_bytes(plan.columns)) {
    throw Error(ErrorCode::kUnsupported, plan.layer,
                "4-bit rows of odd length (" + std::to_string(plan.columns) + ") are not available with QNN",
                "exclude the layer");
  }
  const WeightFormat format =
      is_float ? float_format(packing == Packing::kFloat16 ? ElementType::kF16 : ElementType::kF32) : plan.format;
  std::int64_t block_size = 0;
  if (packing == Packing::kBlocks) {
    block_size = format.granularity == Granularity::kGroup ? format.group_size : block_of_row(plan);
  }
  const auto [weight, is_new] = weights_.add(plan, format, layout_of(packing));
  StoredMatrix stored{.block_size = block_size};
  if (is_new) {
    stored.new_bytes = plan.rows * format.row_bytes(plan.columns);
    matrices_.push_back({.is_signed = packing == Packing::kSigned, .values = reserve(stored.new_bytes)});
  }
  Matrix& matrix = matrices_[weight];
  stored.values = matrix.values;
  stored.scales_per_row = block_size > 0 ? plan.columns / block_size : format.scales_per_row(plan.columns);
  if (!is_float) {
    stored.scales = scales_of(matrix, plan, stored.scales_per_row, stored.new_bytes).place;
  }
  return stored;
}

const DataStore::Scales& DataStore::scales_of(Matrix& matrix, const LayerPlan& plan, std::int64_t per_row,
                                              std::int64_t& new_bytes) {
  const auto known = std::ranges::find(matrix.scales, per_row, &Scales::per_row);
  if (known != matrix.scales.end()) {
    return *known;
  }
  const std::int64_t bytes = plan.rows * per_row * static_cast<std::int64_t>(sizeof(float));
  new_bytes += bytes;
  return matrix.scales.emplace_back(Scales{.per_row = per_row, .place = reserve(bytes)});
}

ExternalData DataStore::add_computed(std::span<const std::byte> bytes) {
  return computed_.add({bytes.begin(), bytes.end()}, [&](std::int64_t size) { return reserve(size); });
}

void DataStore::write_encoded(std::size_t weight, const EncodedTile& tile, const Write& write) const {
  const WeightFormat& format = weights_[weight].format;
  const std::int64_t columns = weights_[weight].source.columns;
  const Matrix& matrix = matrices_[weight];
  const std::vector<float> own = load_scales(tile.scales, format.scale_type);
  for (const Scales& scales : matrix.scales) {
    const auto copies = static_cast<std::size_t>(scales.per_row / format.scales_per_row(columns));
    std::vector<float> wanted;
    wanted.reserve(own.size() * copies);
    for (const float scale : own) {
      wanted.insert(wanted.end(), copies, scale);
    }
    const std::int64_t first = tile.row_begin * scales.per_row * static_cast<std::int64_t>(sizeof(float));
    write(scales.place.offset + first, std::as_bytes(std::span(wanted)));
  }
  // The encoder gives INT8 in two's complement and INT4 as q + 8.
  const bool is_int4 = format.bits() == 4;
  if (matrix.is_signed && is_int4) {
    std::ranges::for_each(tile.values, [](std::byte& both) { both ^= std::byte{0x88}; });
  } else if (!matrix.is_signed && format.bits() == 8) {
    std::ranges::for_each(tile.values, [](std::byte& value) { value ^= std::byte{0x80}; });
  }
  write(matrix.values.offset + tile.row_begin * format.row_bytes(columns), tile.values);
}

void DataStore::stream(const Write& write, const RunControl& control) const {
  for (const auto& [bytes, place] : computed_.places()) {
    write(place.offset, bytes);
  }
  weights_.stream([&](std::size_t weight, const EncodedTile& tile) { write_encoded(weight, tile, write); }, control);
}

}  // namespace diffulex_edge::qnn
