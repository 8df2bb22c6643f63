#include "backends/coreml/weight_store.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "backends/coreml/stored_forms.h"
#include "backends/coreml/weight_file.h"
#include "diffulex_edge/error.h"
#include "quant/kernels/kernels.h"
#include "quant/weight_decoder.h"
#include "quant/weight_stream.h"

namespace diffulex_edge::coreml {
namespace {

constexpr std::int64_t kAlignment = 64;
constexpr auto kHeadBytes = static_cast<std::int64_t>(sizeof(FileHead));
constexpr auto kMetadataBytes = static_cast<std::int64_t>(sizeof(BlobMetadata));

// Whether two integers share a byte.
bool is_packed(const WeightFormat& format) { return format.is_grid() && format.bits() == 4; }

int signed_nibble(std::uint8_t nibble) { return static_cast<int>(nibble) - 8; }

// Integers that stood for q * scale now stand for q * (scale * factor).
void requantize(std::span<std::byte> values, bool packed, float factor) {
  const auto round = [&](int q, int low, int high) {
    return std::clamp(static_cast<int>(std::nearbyint(static_cast<float>(q) / factor)), low, high);
  };
  for (std::byte& value : values) {
    if (packed) {
      const auto both = std::to_integer<std::uint8_t>(value);
      const int low = round(signed_nibble(both & 0x0FU), -8, 7) + 8;
      const int high = round(signed_nibble(both >> 4U), -8, 7) + 8;
      value = static_cast<std::byte>(low | (high << 4));
    } else {
      value = static_cast<std::byte>(round(std::to_integer<std::int8_t>(value), -128, 127));
    }
  }
}

// Scales that float16 holds as normal numbers; where one is raised, its integers change with it. `values` belong to
// `scales` in equal parts.
void make_scales_normal(std::vector<float>& scales, std::span<std::byte> values, const WeightFormat& format,
                        const std::string& layer) {
  const std::size_t part = values.size() / scales.size();
  for (std::size_t i = 0; i < scales.size(); ++i) {
    if (scales[i] > kernels::kMaxFinite16) {
      throw Error(ErrorCode::kUnsupported, layer, "has a scale of " + std::to_string(scales[i]) + ", beyond FP16",
                  "use --activation-dtype fp32");
    }
    if (scales[i] < kLeastNormalHalf) {
      requantize(values.subspan(i * part, part), is_packed(format), kLeastNormalHalf / scales[i]);
      scales[i] = kLeastNormalHalf;
    }
  }
}

}  // namespace

std::int64_t WeightStore::Blob::data() const { return offset + kMetadataBytes; }

WeightStore::WeightStore(const Checkpoint& checkpoint, DistinctTensors& distinct, WeightSettings settings)
    : settings_(std::move(settings)),
      weights_(checkpoint, distinct, settings_.saturate_fp16),
      space_(kAlignment, kHeadBytes) {}

std::size_t WeightStore::add_blob(std::uint32_t type, std::int64_t bytes) {
  blobs_.push_back({.type = type, .offset = space_.reserve(kMetadataBytes + bytes), .bytes = bytes});
  return blobs_.size() - 1;
}

BlobReference WeightStore::reference(std::size_t blob) const {
  return {.file = settings_.file, .offset = blobs_[blob].offset};
}

std::uint32_t WeightStore::arithmetic_blob() const { return is_half() ? kBlobFloat16 : kBlobFloat32; }

// Weights that are to be FP32 are FP16 where the arithmetic is, as those that are to be FP16. Tables are in the
// arithmetic's type.
WeightFormat WeightStore::stored_format(const LayerPlan& plan) const {
  if (!plan.format.is_quantized()) {
    return float_format(is_half() || plan.format.element == ElementType::kF16 ? ElementType::kF16 : ElementType::kF32);
  }
  WeightFormat format = plan.format;
  if (format.has_codebook()) {
    format.scale_type = is_half() ? ElementType::kF16 : ElementType::kF32;
  }
  return format;
}

WeightStore::Matrix WeightStore::make_matrix(const LayerPlan& plan, const WeightFormat& format) {
  Matrix matrix{.stored = {.format = format}};
  StoredMatrix& stored = matrix.stored;
  const bool as_bytes = format.has_codebook() && !settings_.has_sub_bytes;
  const std::uint32_t type = as_bytes ? kBlobUint8 : stored_form(format.element).blob;
  matrix.values = add_blob(type, plan.rows * format.row_bytes(plan.columns));
  stored.values = reference(matrix.values);
  stored.bytes = blobs_[matrix.values].bytes;
  if (!format.is_quantized()) {
    return matrix;
  }
  stored.scales_per_row = format.scales_per_row(plan.columns);
  stored.tables_count = format.tables(plan.rows);
  const std::int64_t shared =
      format.has_codebook() ? stored.tables_count * format.table_size() : plan.rows * stored.scales_per_row;
  matrix.scales = add_blob(arithmetic_blob(), shared * arithmetic_bytes());
  (format.has_codebook() ? stored.tables : stored.scales) = reference(matrix.scales);
  stored.bytes += blobs_[matrix.scales].bytes;
  return matrix;
}

StoredMatrix WeightStore::add_matrix(const LayerPlan& plan) {
  const WeightFormat format = stored_format(plan);
  if (!format.fills_bytes(plan.columns)) {
    throw Error(ErrorCode::kUnsupported, plan.layer,
                "rows of " + std::to_string(plan.columns) + " elements of " + std::to_string(format.bits()) +
                    " bits, which end inside a byte, are not available with Core ML",
                "exclude the layer, or use 8 bits");
  }
  const auto [weight, is_new] = weights_.add(plan, format, {});
  if (is_new) {
    matrices_.push_back(make_matrix(plan, format));
  }
  StoredMatrix stored = matrices_[weight].stored;
  stored.is_new = is_new;
  return stored;
}

BlobReference WeightStore::add_vector(const LayerPlan& plan, bool& is_new) {
  LayerPlan vector = plan;
  vector.format = float_format(is_half() ? ElementType::kF16 : ElementType::kF32);
  const StoredMatrix stored = add_matrix(vector);
  is_new = stored.is_new;
  return stored.values;
}

std::vector<std::byte> WeightStore::narrow(std::span<const float> values) const {
  if (!is_half()) {
    const auto bytes = std::as_bytes(values);
    return {bytes.begin(), bytes.end()};
  }
  std::vector<std::uint16_t> halves(values.size());
  kernels::f32_to_f16(values.data(), halves.data(), values.size());
  const auto bytes = std::as_bytes(std::span(halves));
  return {bytes.begin(), bytes.end()};
}

BlobReference WeightStore::add_computed(std::span<const float> values) {
  return reference(
      computed_.add(narrow(values), [this](std::int64_t bytes) { return add_blob(arithmetic_blob(), bytes); }));
}

void WeightStore::write_head(const Write& write) const {
  const FileHead head{.count = static_cast<std::uint32_t>(blobs_.size())};
  write(0, std::as_bytes(std::span(&head, 1)));
  for (const Blob& blob : blobs_) {
    const BlobMetadata metadata{.type = blob.type,
                                .bytes = static_cast<std::uint64_t>(blob.bytes),
                                .data_offset = static_cast<std::uint64_t>(blob.data())};
    write(blob.offset, std::as_bytes(std::span(&metadata, 1)));
  }
}

void WeightStore::write_scales(std::size_t weight, const Write& write, const EncodedTile& tile) const {
  const Matrix& matrix = matrices_[weight];
  const WeightFormat& format = matrix.stored.format;
  std::vector<float> scales = load_scales(tile.scales, format.scale_type);
  if (is_half()) {
    make_scales_normal(scales, tile.values, format, weights_[weight].layer);
  }
  const std::int64_t first = tile.row_begin * matrix.stored.scales_per_row * arithmetic_bytes();
  write(blobs_[matrix.scales].data() + first, narrow(scales));
}

// The tables whose rows begin in the tile, so that each is written once.
void WeightStore::write_tables(const Matrix& matrix, const Write& write, const EncodedTile& tile) const {
  const std::int64_t rows = tile.codebooks->rows_per_table;
  const std::int64_t bytes = matrix.stored.format.table_size() * arithmetic_bytes();
  const std::int64_t first = (tile.row_begin + rows - 1) / rows;
  for (std::int64_t table = first; table * rows < tile.row_begin + tile.rows; ++table) {
    write(blobs_[matrix.scales].data() + table * bytes,
          narrow(tile.codebooks->tables[static_cast<std::size_t>(table)]));
  }
}

void WeightStore::write_encoded(std::size_t weight, const Write& write, const EncodedTile& tile) const {
  const Matrix& matrix = matrices_[weight];
  const WeightFormat& format = matrix.stored.format;
  if (format.is_grid()) {
    write_scales(weight, write, tile);
  } else if (format.has_codebook()) {
    write_tables(matrix, write, tile);
  }
  if (is_packed(format)) {
    for (std::byte& both : tile.values) {
      both ^= std::byte{0x88};  // q + 8 becomes q in two's complement
    }
  }
  write(blobs_[matrix.values].data() + tile.row_begin * format.row_bytes(weights_[weight].source.columns), tile.values);
}

void WeightStore::stream(const Write& write, const RunControl& control) const {
  write_head(write);
  for (const auto& [bytes, blob] : computed_.places()) {
    write(blobs_[blob].data(), bytes);
  }
  weights_.stream([&](std::size_t weight, const EncodedTile& tile) { write_encoded(weight, write, tile); }, control);
}

}  // namespace diffulex_edge::coreml
