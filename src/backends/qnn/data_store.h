// The file of external data beside an ONNX model: weights in the forms that its operators read.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "backends/qnn/onnx_graph.h"
#include "checkpoint/distinct_tensors.h"
#include "checkpoint/stored_weight.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge::qnn {

enum class Packing {
  kFloat32,
  kFloat16,
  // For DequantizeLinear: two's complement, INT4 two to a byte, the first in the low nibble.
  kSigned,
  // For MatMulNBits: unsigned with the zero point in the middle, scales for blocks along the input.
  kBlocks,
};

// A stored matrix [rows, columns].
struct StoredMatrix {
  ExternalData values;
  ExternalData scales;              // float32 [rows, scales_per_row], row-major; none of floats
  std::int64_t scales_per_row = 0;  // of kBlocks: one for each block, equal ones repeated
  std::int64_t block_size = 0;      // of kBlocks
  bool is_new = true;               // false: stored before, for an equal weight

  std::int64_t bytes() const { return values.bytes + scales.bytes; }
};

class DataStore {
 public:
  // Keeps references to both.
  DataStore(const Checkpoint& checkpoint, DistinctTensors& distinct, bool saturate_fp16)
      : checkpoint_(checkpoint), distinct_(distinct), saturate_fp16_(saturate_fp16) {}

  // Errors: kUnsupported for rows that a packing can't hold: INT4 of odd length; kBlocks where no power of two from 16
  // on divides the row.
  StoredMatrix add_matrix(const LayerPlan& plan, Packing packing);
  // Computed data. Equal ones are stored once.
  ExternalData add_computed(std::span<const std::byte> bytes);

  std::int64_t file_bytes() const { return end_; }

  // Called from several threads, with an offset in the file.
  using Write = std::function<void(std::int64_t offset, std::span<const std::byte> bytes)>;
  // Everything, weights streamed from the checkpoint. Errors: as stream_weights.
  void stream(const Write& write, const RunControl& control) const;

 private:
  struct Matrix {
    StoredWeight source;
    WeightFormat format;  // in which it is encoded, before it takes its packing's form
    RoundingMethod method = RoundingMethod::RTN;
    Packing packing = Packing::kFloat32;
    StoredMatrix stored;
  };
  using Key = std::tuple<std::string, std::string>;  // content, form

  ExternalData reserve(std::int64_t bytes);
  static void write_encoded(const Matrix& matrix, const Write& write, std::int64_t row_begin,
                            std::span<std::byte> values, std::span<const std::byte> scales);

  const Checkpoint& checkpoint_;
  DistinctTensors& distinct_;
  bool saturate_fp16_;
  std::int64_t end_ = 0;
  std::vector<Matrix> matrices_;
  std::map<Key, std::size_t> by_key_;
  std::map<std::vector<std::byte>, ExternalData> computed_;
};

}  // namespace diffulex_edge::qnn
