#include "backends/qnn/data_store.h"

#include <algorithm>

#include "diffulex_edge/error.h"
#include "quant/weight_decoder.h"
#include "quant/weight_stream.h"

namespace diffulex_edge::qnn {
namespace {

constexpr std::int64_t kAlignment = 64;
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

}  // namespace

ExternalData DataStore::reserve(std::int64_t bytes) {
  const std::int64_t offset = (end_ + kAlignment - 1) / kAlignment * kAlignment;
  end_ = offset + bytes;
  return {.offset = offset, .bytes = bytes};
}

StoredMatrix DataStore::add_matrix(const LayerPlan& plan, Packing packing) {
  const bool is_float = packing == Packing::kFloat32 || packing == Packing::kFloat16;
  if (!is_float && plan.format.element == ElementType::kI4 && plan.columns % 2 != 0) {
    throw Error(ErrorCode::kUnsupported, plan.layer,
                "4-bit rows of odd length (" + std::to_string(plan.columns) + ") are not available with QNN",
                "exclude the layer");
  }
  const WeightFormat format =
      is_float ? float_format(packing == Packing::kFloat16 ? ElementType::kF16 : ElementType::kF32) : plan.format;
  const std::string form =
      std::to_string(static_cast<int>(packing)) + ", " + to_string(format) + ", " + std::string(to_string(plan.method));
  const auto [position, inserted] = by_key_.emplace(Key(distinct_.content_of(plan.tensor), form), matrices_.size());
  if (inserted) {
    Matrix matrix{.source = find_stored_weight(checkpoint_, plan.tensor),
                  .format = format,
                  .method = plan.method,
                  .packing = packing,
                  .stored = {.values = {}, .scales = {}}};
    StoredMatrix& stored = matrix.stored;
    if (packing == Packing::kBlocks) {
      const bool in_groups = format.granularity == Granularity::kGroup;
      stored.block_size = in_groups ? format.group_size : block_of_row(plan);
      stored.scales_per_row = plan.columns / stored.block_size;
    } else {
      stored.scales_per_row = format.scales_per_row(plan.columns);
    }
    stored.values = reserve(plan.rows * format.row_bytes(plan.columns));
    if (!is_float) {
      stored.scales = reserve(plan.rows * stored.scales_per_row * static_cast<std::int64_t>(sizeof(float)));
    }
    matrices_.push_back(matrix);
  }
  StoredMatrix stored = matrices_[position->second].stored;
  stored.is_new = inserted;
  return stored;
}

ExternalData DataStore::add_computed(std::span<const std::byte> bytes) {
  const auto [position, inserted] =
      computed_.emplace(std::vector<std::byte>(bytes.begin(), bytes.end()), ExternalData{});
  if (inserted) {
    position->second = reserve(static_cast<std::int64_t>(bytes.size()));
  }
  return position->second;
}

void DataStore::write_encoded(const Matrix& matrix, const Write& write, std::int64_t row_begin,
                              std::span<std::byte> values, std::span<const std::byte> scales) {
  const StoredMatrix& stored = matrix.stored;
  if (!scales.empty()) {
    const std::vector<float> own = load_scales(scales, matrix.format.scale_type);
    const std::int64_t own_per_row = matrix.format.scales_per_row(matrix.source.columns);
    const auto copies = static_cast<std::size_t>(stored.scales_per_row / own_per_row);
    std::vector<float> wanted;
    wanted.reserve(own.size() * copies);
    for (const float scale : own) {
      wanted.insert(wanted.end(), copies, scale);
    }
    const std::int64_t first = row_begin * stored.scales_per_row * static_cast<std::int64_t>(sizeof(float));
    write(stored.scales.offset + first, std::as_bytes(std::span(wanted)));
  }
  // The encoder gives INT8 in two's complement and INT4 as q + 8.
  const bool is_int4 = matrix.format.element == ElementType::kI4;
  if (matrix.packing == Packing::kSigned && is_int4) {
    std::ranges::for_each(values, [](std::byte& both) { both ^= std::byte{0x88}; });
  } else if (matrix.packing == Packing::kBlocks && !is_int4) {
    std::ranges::for_each(values, [](std::byte& value) { value ^= std::byte{0x80}; });
  }
  write(stored.values.offset + row_begin * matrix.format.row_bytes(matrix.source.columns), values);
}

void DataStore::stream(const Write& write, const RunControl& control) const {
  for (const auto& [bytes, place] : computed_) {
    write(place.offset, bytes);
  }
  std::vector<StreamJob> jobs;
  for (const Matrix& matrix : matrices_) {
    const auto sink = [&matrix, &write](const EncodedTile& tile) {
      write_encoded(matrix, write, tile.row_begin, tile.values, tile.scales);
    };
    jobs.push_back({.source = matrix.source,
                    .format = matrix.format,
                    .method = matrix.method,
                    .saturate_fp16 = saturate_fp16_,
                    .sink = sink});
  }
  stream_weights(jobs, control);
}

}  // namespace diffulex_edge::qnn
