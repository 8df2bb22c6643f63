// The tensors of a GGUF file under the names and in the order of rows that their family has on the Hugging Face hub.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/gguf_blocks.h"
#include "checkpoint/row_decoder.h"
#include "checkpoint/tensor_source.h"
#include "model_files/gguf_file.h"

namespace diffulex_edge {

// Rows of the query and key projections that are stored for a rotation of neighbours (2i, 2i + 1); ours, as the
// original checkpoints', is of halves (i, i + D / 2).
struct GgufHeadRows {
  std::int64_t head_dim = 0;  // 0: rows are in order

  // Where row `row` of the checkpoint is in the file.
  std::int64_t stored(std::int64_t row) const {
    if (head_dim == 0) {
      return row;
    }
    const std::int64_t within = row % head_dim;
    return row - within + within % (head_dim / 2) * 2 + within / (head_dim / 2);
  }
};

// A weight in blocks of ggml, or whose rows are in another order.
class GgufWeight final : public RowDecoder {
 public:
  GgufWeight(const TensorView& view, const GgufBlockType& type, GgufHeadRows rows);

  const GgufBlockType& type() const { return type_; }
  // The blocks of one of the checkpoint's rows; of a vector whose elements are in another order, those of the file.
  std::span<const std::byte> blocks(std::int64_t row) const;

  bool is_quantized() const override { return !type_.plain; }
  void decode(std::int64_t row_begin, std::int64_t count, std::span<float> target) const override;
  bool read_scales(std::int64_t row, std::int64_t group_size, std::span<float> scales) const override;

 private:
  const GgufBlockType& type_;
  GgufHeadRows order_;
};

// Tensors of F32, F16 and BF16 as they are, of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K by decoders; of
// experts' tensors [experts, out, in], each expert's matrix. Throws Error{kBadFile} where a tensor lies outside the
// file, overlaps another one or does not fill its blocks, and Error{kUnsupported} for other types and for a file that
// is one part of several.
class GgufTensors final : public TensorSource {
 public:
  explicit GgufTensors(const std::filesystem::path& path);

 private:
  std::shared_ptr<const GgufFile> file_;
  std::vector<std::unique_ptr<const RowDecoder>> decoders_;
};

// "blk.3.attn_q.weight" as the architecture's checkpoints name it; what is not known keeps its name.
// "blk.3.ffn_up_exps.weight" becomes the prefix and the ending of its experts' names, with a '*' for the number.
std::string checkpoint_name(const std::string& architecture, const std::string& name);

}  // namespace diffulex_edge
