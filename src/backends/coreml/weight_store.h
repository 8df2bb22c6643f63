// A package's weight file: which weights are stored, in which form, and where. docs/FORMATS.md has the layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "backends/coreml/mil_program.h"
#include "backends/shared_weights.h"
#include "checkpoint/distinct_tensors.h"
#include "diffulex_edge/quantization.h"
#include "quant/weight_stream.h"

namespace diffulex_edge::coreml {

// A stored matrix [rows, columns].
struct StoredMatrix {
  WeightFormat format;
  BlobReference values;  // integers in two's complement; palettes: indices
  BlobReference scales;  // of integers: [rows, scales_per_row], row-major, in the arithmetic's type
  BlobReference tables;  // of palettes: [tables, values of one], likewise
  std::int64_t scales_per_row = 1;
  std::int64_t tables_count = 1;
  std::int64_t bytes = 0;  // of all parts
  bool is_new = true;      // false: stored before, for an equal weight
};

// What all weights of a package have in common.
struct WeightSettings {
  MilDtype arithmetic = MilDtype::kFloat16;  // or kFloat32: the type of scales, tables, vectors and float matrices
  bool saturate_fp16 = false;
  bool has_sub_bytes = true;  // types of less than 8 bits exist (iOS18); else palettes' indices are bytes
  std::string file = "@model_path/weights/weight.bin";
};

class WeightStore {
 public:
  // Keeps references to both.
  WeightStore(const Checkpoint& checkpoint, DistinctTensors& distinct, WeightSettings settings);

  // Errors: kUnsupported for rows that end inside a byte.
  StoredMatrix add_matrix(const LayerPlan& plan);
  // A bias or a norm's weight, in the arithmetic's type.
  BlobReference add_vector(const LayerPlan& plan, bool& is_new);
  // Computed data, in the arithmetic's type. Equal data are stored once.
  BlobReference add_computed(std::span<const float> values);

  std::int64_t file_bytes() const { return space_.end(); }

  // Called from several threads, with an offset in the file.
  using Write = std::function<void(std::int64_t offset, std::span<const std::byte> bytes)>;
  // Everything, weights streamed from the checkpoint. Errors: as stream_weights, and kUnsupported for a scale or a
  // palette's value that float16 can't hold.
  void stream(const Write& write, const RunControl& control) const;

 private:
  struct Blob {
    std::uint32_t type = 0;
    std::int64_t offset = 0;  // of its metadata
    std::int64_t bytes = 0;

    std::int64_t data() const;
  };
  struct Matrix {
    StoredMatrix stored;
    std::size_t values = 0;  // blobs
    std::size_t scales = 0;  // or tables
  };

  std::size_t add_blob(std::uint32_t type, std::int64_t bytes);
  BlobReference reference(std::size_t blob) const;
  bool is_half() const { return settings_.arithmetic == MilDtype::kFloat16; }
  std::uint32_t arithmetic_blob() const;
  std::int64_t arithmetic_bytes() const { return is_half() ? 2 : 4; }
  WeightFormat stored_format(const LayerPlan& plan) const;
  Matrix make_matrix(const LayerPlan& plan, const WeightFormat& format);
  std::vector<std::byte> narrow(std::span<const float> values) const;
  void write_head(const Write& write) const;
  void write_scales(std::size_t weight, const Write& write, const EncodedTile& tile) const;
  void write_tables(const Matrix& matrix, const Write& write, const EncodedTile& tile) const;
  void write_encoded(std::size_t weight, const Write& write, const EncodedTile& tile) const;

  WeightSettings settings_;
  SharedWeights weights_;
  std::vector<Matrix> matrices_;      // of each weight
  SharedData<std::size_t> computed_;  // their blobs
  std::vector<Blob> blobs_;
  FileSpace space_;
};

}  // namespace diffulex_edge::coreml
