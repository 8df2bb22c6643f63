#include "checkpoint/prequantized/scheme.h"

#include "checkpoint/prequantized/methods.h"
#include "checkpoint/row_decoder.h"
#include "core/join.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

std::int64_t read_method(Checkpoint& checkpoint, const PrequantizedScheme& scheme) {
  switch (scheme.method) {
    case PrequantizedMethod::kGptq:
      return read_gptq(checkpoint, scheme);
    case PrequantizedMethod::kAwq:
      return read_awq(checkpoint, scheme);
    case PrequantizedMethod::kCompressedTensors:
      return read_compressed_tensors(checkpoint, scheme);
    case PrequantizedMethod::kFp8:
      return read_fp8(checkpoint, scheme);
    case PrequantizedMethod::kBitsAndBytes:
      return read_bitsandbytes(checkpoint, scheme);
  }
  throw Error(ErrorCode::kInternal, {}, "unknown method");
}

}  // namespace

void read_prequantized(Checkpoint& checkpoint, const PrequantizedScheme& scheme) {
  if (read_method(checkpoint, scheme) == 0) {
    throw Error(ErrorCode::kBadFile, checkpoint.path().string(),
                "holds no weight in the layout that config.json's 'quantization_config' announces",
                "if its weights are plain, remove the key");
  }
}

PrequantizedLayouts quantized_layouts(const Checkpoint& checkpoint) {
  PrequantizedLayouts layouts;
  for (const auto& [name, view] : checkpoint.tensors()) {
    if (view.decoder != nullptr && view.decoder->is_quantized()) {
      ++layouts[view.decoder->what()];
    }
  }
  return layouts;
}

std::string describe(const PrequantizedLayouts& layouts, bool ignores_activations) {
  std::vector<std::string> kinds;
  for (const auto& [what, count] : layouts) {
    kinds.push_back(std::to_string(count) + (count == 1 ? " weight is " : " weights are ") + what);
  }
  return join(kinds, ", ", " and ", [](const std::string& kind) { return kind; }) +
         ": dequantized as they are read; quantizing them again adds to their loss" +
         (layouts.contains("GGUF Q4_0") ? ", least as INT4 in groups of 32, which keeps Q4_0's integers where it can"
                                        : "") +
         (ignores_activations ? "; that activations were quantized too has no effect here" : "");
}

}  // namespace diffulex_edge
