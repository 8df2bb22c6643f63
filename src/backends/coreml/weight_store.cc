#include "backends/coreml/weight_store.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "backends/coreml/weight_file.h"
#include "core/mapped_file.h"
#include "core/parallel.h"
#include "diffulex_edge/error.h"
#include "quant/kernels/kernels.h"
#include "quant/palette.h"
#include "quant/weight_decoder.h"
#include "quant/weight_encoder.h"
#include "quant/weight_stream.h"

namespace diffulex_edge::coreml {
namespace {

constexpr std::int64_t kAlignment = 64;
constexpr auto kHeadBytes = static_cast<std::int64_t>(sizeof(FileHead));
constexpr auto kMetadataBytes = static_cast<std::int64_t>(sizeof(BlobMetadata));
constexpr std::size_t kPaletteSize = 16;

std::int64_t align(std::int64_t value) { return (value + kAlignment - 1) / kAlignment * kAlignment; }

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
void make_scales_normal(std::vector<float>& scales, std::span<std::byte> values, bool packed,
                        const std::string& layer) {
  const std::size_t part = values.size() / scales.size();
  for (std::size_t i = 0; i < scales.size(); ++i) {
    if (scales[i] > kernels::kMaxFinite16) {
      throw Error(ErrorCode::kUnsupported, layer, "has a scale of " + std::to_string(scales[i]) + ", beyond FP16",
                  "use --activation-dtype fp32");
    }
    if (scales[i] < kLeastNormalHalf) {
      requantize(values.subspan(i * part, part), packed, kLeastNormalHalf / scales[i]);
      scales[i] = kLeastNormalHalf;
    }
  }
}

}  // namespace

std::int64_t WeightStore::Blob::data() const { return offset + kMetadataBytes; }

WeightStore::WeightStore(const Checkpoint& checkpoint, DistinctTensors& distinct, WeightSettings settings)
    : checkpoint_(checkpoint), distinct_(distinct), settings_(std::move(settings)), end_(kHeadBytes) {}

std::size_t WeightStore::add_blob(std::uint32_t type, std::int64_t bytes) {
  const std::int64_t offset = align(end_);
  blobs_.push_back({.type = type, .offset = offset, .bytes = bytes});
  end_ = offset + kMetadataBytes + bytes;
  return blobs_.size() - 1;
}

BlobReference WeightStore::reference(std::size_t blob) const {
  return {.file = settings_.file, .offset = blobs_[blob].offset};
}

std::uint32_t WeightStore::arithmetic_blob() const { return is_half() ? kBlobFloat16 : kBlobFloat32; }

MatrixStorage WeightStore::storage_of(const LayerPlan& plan) const {
  switch (plan.format.element) {
    case ElementType::kI8:
      return MatrixStorage::kInt8;
    case ElementType::kI4:
      return settings_.palette ? MatrixStorage::kPalette : MatrixStorage::kInt4;
    case ElementType::kF16:
      return MatrixStorage::kFloat16;
    default:
      return is_half() ? MatrixStorage::kFloat16 : MatrixStorage::kFloat32;
  }
}

void WeightStore::add_parts(Matrix& matrix, const LayerPlan& plan) {
  StoredMatrix& stored = matrix.stored;
  const std::int64_t elements = plan.rows * plan.columns;
  std::int64_t more = 0;  // bytes of scales or tables
  switch (stored.storage) {
    case MatrixStorage::kFloat16:
      matrix.values = add_blob(kBlobFloat16, 2 * elements);
      break;
    case MatrixStorage::kFloat32:
      matrix.values = add_blob(kBlobFloat32, 4 * elements);
      break;
    case MatrixStorage::kInt8:
    case MatrixStorage::kInt4:
      stored.scales_per_row = plan.format.scales_per_row(plan.columns);
      more = plan.rows * stored.scales_per_row * arithmetic_bytes();
      matrix.values =
          stored.storage == MatrixStorage::kInt8 ? add_blob(kBlobInt8, elements) : add_blob(kBlobInt4, elements / 2);
      matrix.scales = add_blob(arithmetic_blob(), more);
      stored.scales = reference(matrix.scales);
      break;
    case MatrixStorage::kPalette:
      stored.tables_count = settings_.palette_group == 0 ? 1 : plan.rows / settings_.palette_group;
      more = stored.tables_count * static_cast<std::int64_t>(kPaletteSize) * arithmetic_bytes();
      matrix.values = add_blob(settings_.has_sub_bytes ? kBlobUint4 : kBlobUint8, elements / 2);
      matrix.scales = add_blob(arithmetic_blob(), more);
      stored.tables = reference(matrix.scales);
      break;
  }
  stored.values = reference(matrix.values);
  stored.bytes = blobs_[matrix.values].bytes + more;
}

StoredMatrix WeightStore::add_matrix(const LayerPlan& plan) {
  const MatrixStorage storage = storage_of(plan);
  if ((storage == MatrixStorage::kInt4 || storage == MatrixStorage::kPalette) && plan.columns % 2 != 0) {
    throw Error(ErrorCode::kUnsupported, plan.layer,
                "4-bit rows of odd length (" + std::to_string(plan.columns) + ") are not available with Core ML",
                "exclude the layer");
  }
  const std::int64_t group = settings_.palette_group;
  if (storage == MatrixStorage::kPalette && plan.source.is_quantized()) {
    throw Error(ErrorCode::kInvalidArgument, plan.layer, "is stored in INT4 already, and a palette needs its floats",
                "export the original model");
  }
  if (storage == MatrixStorage::kPalette && group > 0 && plan.rows % group != 0) {
    throw Error(ErrorCode::kUnsupported, plan.layer,
                "has " + std::to_string(plan.rows) + " rows: groups of " + std::to_string(group) + " rows " +
                    (group > plan.rows ? "are larger than that" : "do not divide them"),
                "choose another --palette-group, or exclude the layer");
  }
  const bool is_float = storage == MatrixStorage::kFloat16 || storage == MatrixStorage::kFloat32;
  // Weights that are to be FP32 are FP16 where the arithmetic is, as those that are to be FP16.
  const WeightFormat format =
      is_float ? float_format(storage == MatrixStorage::kFloat16 ? ElementType::kF16 : ElementType::kF32) : plan.format;
  const std::string form =
      std::to_string(static_cast<int>(storage)) + ", " + to_string(format) + ", " + std::string(to_string(plan.method));
  const Key key(distinct_.content_of(plan.tensor), form);
  const auto [position, inserted] = by_key_.emplace(key, matrices_.size());
  if (inserted) {
    Matrix matrix{.source = find_stored_weight(checkpoint_, plan.tensor),
                  .format = format,
                  .method = plan.method,
                  .layer = plan.layer,
                  .stored = {.storage = storage}};
    add_parts(matrix, plan);
    matrices_.push_back(std::move(matrix));
  }
  StoredMatrix stored = matrices_[position->second].stored;
  stored.is_new = inserted;
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
  const auto [position, inserted] = computed_.emplace(narrow(values), 0);
  if (inserted) {
    position->second = add_blob(arithmetic_blob(), static_cast<std::int64_t>(position->first.size()));
  }
  return reference(position->second);
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

void WeightStore::write_encoded(const Matrix& matrix, const Write& write, std::int64_t row_begin,
                                std::span<std::byte> values, std::span<const std::byte> scales) const {
  const bool packed = matrix.stored.storage == MatrixStorage::kInt4;
  if (!scales.empty()) {
    std::vector<float> wide = load_scales(scales, matrix.format.scale_type);
    if (is_half()) {
      make_scales_normal(wide, values, packed, matrix.layer);
    }
    const std::int64_t first = row_begin * matrix.stored.scales_per_row * arithmetic_bytes();
    write(blobs_[matrix.scales].data() + first, narrow(wide));
  }
  if (packed) {
    for (std::byte& both : values) {
      both ^= std::byte{0x88};  // q + 8 becomes q in two's complement
    }
  }
  write(blobs_[matrix.values].data() + row_begin * matrix.format.row_bytes(matrix.source.columns), values);
}

std::span<const float> WeightStore::importance_of(const std::string& layer) const {
  if (settings_.importance == nullptr) {
    return {};
  }
  const auto found = settings_.importance->find(layer);
  return found == settings_.importance->end() ? std::span<const float>() : std::span<const float>(found->second);
}

Palette WeightStore::fit(const PaletteHistogram& histogram, const std::string& layer) const {
  if (!is_half()) {
    return histogram.fit(ElementType::kF32);
  }
  try {
    return histogram.fit(ElementType::kF16);
  } catch (const Error&) {
    throw Error(ErrorCode::kUnsupported, layer, "has a palette with values beyond FP16 (65504)",
                "use --activation-dtype fp32");
  }
}

void WeightStore::write_palettes(const Write& write, const RunControl& control) const {
  struct Part {
    const Matrix* matrix = nullptr;
    std::int64_t table = 0;
  };
  std::vector<Part> parts;
  for (const Matrix& matrix : matrices_) {
    for (std::int64_t table = 0; matrix.stored.storage == MatrixStorage::kPalette && table < matrix.stored.tables_count;
         ++table) {
      parts.push_back({.matrix = &matrix, .table = table});
    }
  }
  constexpr std::int64_t kTileElements = std::int64_t{1} << 18U;
  parallel_for(parts.size(), control, [&](std::size_t item, std::size_t) {
    const Matrix& matrix = *parts[item].matrix;
    const std::int64_t columns = matrix.source.columns;
    const std::int64_t rows = matrix.source.rows / matrix.stored.tables_count;
    const std::int64_t begin = parts[item].table * rows;
    const std::int64_t tile = std::clamp<std::int64_t>(kTileElements / columns, 1, rows);
    EncodeScratch scratch;
    std::vector<float> values(static_cast<std::size_t>(tile * columns));
    // Calls `take` with whole rows in float32.
    const auto for_each_tile = [&](const auto& take) {
      for (std::int64_t row_begin = begin; row_begin < begin + rows; row_begin += tile) {
        const std::int64_t count = std::min(tile, begin + rows - row_begin);
        const auto wanted = std::span(values).first(static_cast<std::size_t>(count * columns));
        encode_rows(matrix.source, float_format(ElementType::kF32), {}, row_begin, count, scratch,
                    std::as_writable_bytes(wanted), {});
        take(row_begin, std::span<const float>(wanted));
        MappedFile::release(matrix.source.value_rows(row_begin, count));
        if (control.stop.stop_requested()) {
          throw Error(ErrorCode::kCancelled, {}, "stopped");
        }
      }
    };
    PaletteHistogram histogram(importance_of(matrix.layer));
    for_each_tile([&](std::int64_t, std::span<const float> some) { histogram.add(some); });
    const Palette palette = fit(histogram, matrix.layer);
    std::vector<std::byte> nibbles;
    for_each_tile([&](std::int64_t row, std::span<const float> some) {
      nibbles.resize((some.size() + 1) / 2);
      assign_palette(some, palette, nibbles);
      write(blobs_[matrix.values].data() + row * columns / 2, nibbles);
    });
    const std::vector<std::byte> table = narrow(palette);
    write(blobs_[matrix.scales].data() + parts[item].table * static_cast<std::int64_t>(table.size()), table);
  });
}

void WeightStore::stream(const Write& write, const RunControl& control) const {
  write_head(write);
  for (const auto& [bytes, blob] : computed_) {
    write(blobs_[blob].data(), bytes);
  }
  std::vector<StreamJob> jobs;
  for (const Matrix& matrix : matrices_) {
    if (matrix.stored.storage == MatrixStorage::kPalette) {
      continue;
    }
    const auto sink = [this, &matrix, &write](const EncodedTile& tile) {
      write_encoded(matrix, write, tile.row_begin, tile.values, tile.scales);
    };
    jobs.push_back({.source = matrix.source,
                    .format = matrix.format,
                    .method = matrix.method,
                    .saturate_fp16 = settings_.saturate_fp16,
                    .sink = sink});
  }
  stream_weights(jobs, control);
  write_palettes(write, control);
}

}  // namespace diffulex_edge::coreml
