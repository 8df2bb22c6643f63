// The file of external data beside an ONNX model: weights in the forms that its operators read.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "backends/qnn/onnx_graph.h"
#include "backends/shared_weights.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge::qnn {

enum class Packing {
  kFloat32,
  kFloat16,
  // For DequantizeLinear: two's complement, INT4 two to a byte, the first in the low nibble.
  kSigned,
  // For DequantizeLinear as well, of INT8: unsigned with the zero point in the middle. The values are those of kBlocks.
  kUnsigned,
  // For MatMulNBits: unsigned with the zero point in the middle, scales for blocks along the input.
  kBlocks,
};

// A stored matrix [rows, columns].
struct StoredMatrix {
  ExternalData values;
  ExternalData scales;              // float32 [rows, scales_per_row], row-major; none of floats
  std::int64_t scales_per_row = 0;  // of kBlocks: one for each block, equal ones repeated
  std::int64_t block_size = 0;      // of kBlocks
  std::int64_t new_bytes = 0;       // of the parts that were not stored before, for an equal weight

  std::int64_t bytes() const { return values.bytes + scales.bytes; }
  bool is_new() const { return new_bytes == bytes(); }
};

class DataStore {
 public:
  // Keeps references to both.
  DataStore(const Checkpoint& checkpoint, DistinctTensors& distinct, bool saturate_fp16)
      : weights_(checkpoint, distinct, saturate_fp16) {}

  // Errors: kUnsupported for rows that a packing can't hold: INT4 of odd length; kBlocks where no power of two from 16
  // on divides the row.
  StoredMatrix add_matrix(const LayerPlan& plan, Packing packing);
  // Computed data. Equal ones are stored once.
  ExternalData add_computed(std::span<const std::byte> bytes);

  std::int64_t file_bytes() const { return space_.end(); }

  // Called from several threads, with an offset in the file.
  using Write = std::function<void(std::int64_t offset, std::span<const std::byte> bytes)>;
  // Everything, weights streamed from the checkpoint. Errors: as stream_weights.
  void stream(const Write& write, const RunControl& control) const;

 private:
  static constexpr std::int64_t kAlignment = 64;
  struct Scales {
    std::int64_t per_row = 0;
    ExternalData place;
  };
  struct Matrix {
    bool is_signed = true;
    ExternalData values;
    std::vector<Scales> scales;  // for uses that read the same values with other blocks
  };

  ExternalData reserve(std::int64_t bytes) { return {.offset = space_.reserve(bytes), .bytes = bytes}; }
  const Scales& scales_of(Matrix& matrix, const LayerPlan& plan, std::int64_t per_row, std::int64_t& new_bytes);
  void write_encoded(std::size_t weight, const EncodedTile& tile, const Write& write) const;

  SharedWeights weights_;
  std::vector<Matrix> matrices_;  // of each weight
  SharedData<ExternalData> computed_;
  FileSpace space_{kAlignment};
};

}  // namespace diffulex_edge::qnn
