// The tensors of a GGUF file under the names and in the order of rows that their family has on the Hugging Face hub.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/row_decoder.h"
#include "checkpoint/tensor_source.h"
#include "model_files/gguf_file.h"

namespace diffulex_edge {

// Tensors of F32, F16 and BF16 as they are, of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K by decoders. Throws
// Error{kBadFile} where a tensor lies outside the file, overlaps another one or does not fill its blocks, and
// Error{kUnsupported} for other types and for a file that is one part of several.
class GgufTensors final : public TensorSource {
 public:
  explicit GgufTensors(const std::filesystem::path& path);

 private:
  std::unique_ptr<const GgufFile> file_;
  std::vector<std::unique_ptr<const RowDecoder>> decoders_;
};

// "blk.3.attn_q.weight" as the architecture's checkpoints name it; what is not known keeps its name.
std::string checkpoint_name(const std::string& architecture, const std::string& name);

}  // namespace diffulex_edge
