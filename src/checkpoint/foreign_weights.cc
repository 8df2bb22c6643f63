#include "checkpoint/foreign_weights.h"

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

// Endings of tensors' names that only one program gives.
struct Ending {
  std::string_view text;
  std::string_view method;
};
constexpr std::array<Ending, 4> kEndings = {{{".weight_packed", "compressed-tensors"},
                                             {".weight_scale_inv", "FP8 with block scales"},
                                             {".quant_state.bitsandbytes__nf4", "bitsandbytes NF4"},
                                             {".quant_state.bitsandbytes__fp4", "bitsandbytes FP4"}}};

// GPTQ packs along the inputs, [in / n, out], and AWQ along the outputs, [in, out / n]; scales are [groups, out].
std::string_view packing_of(const TensorView& packed, const TensorView* scales, bool has_order) {
  const bool is_matrix = packed.shape.size() == 2 && scales != nullptr && scales->shape.size() == 2;
  if (has_order || (is_matrix && packed.shape[1] == scales->shape[1])) {
    return "GPTQ";
  }
  return is_matrix && packed.shape[1] < scales->shape[1] ? "AWQ" : "GPTQ or AWQ";
}

std::optional<std::string_view> method_of(const Checkpoint& checkpoint, const std::string& name,
                                          const TensorView& view) {
  for (const Ending& ending : kEndings) {
    if (name.ends_with(ending.text)) {
      return ending.method;
    }
  }
  constexpr std::string_view kPacked = ".qweight";
  if (!name.ends_with(kPacked)) {
    return std::nullopt;
  }
  const std::string layer = name.substr(0, name.size() - kPacked.size());
  return packing_of(view, checkpoint.find(layer + ".scales"), checkpoint.find(layer + ".g_idx") != nullptr);
}

}  // namespace

void refuse_foreign_weights(const Checkpoint& checkpoint) {
  for (const auto& [name, view] : checkpoint.tensors()) {
    if (const auto method = method_of(checkpoint, name, view)) {
      throw Error(ErrorCode::kUnsupported, view.where(), "is quantized by " + std::string(*method),
                  "start from the unquantized checkpoint, or from one that `diffulex-edge quantize` wrote");
    }
  }
}

}  // namespace diffulex_edge
