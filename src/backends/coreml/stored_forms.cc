#include "backends/coreml/stored_forms.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <vector>

#include "backends/coreml/weight_file.h"
#include "core/join.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge::coreml {
namespace {

// Before types of less than 8 bits, indices are packed into bytes.
constexpr std::array kForms = {
    StoredForm{ElementType::kF16, "fp16", MilDtype::kFloat16, kBlobFloat16, 16},
    StoredForm{ElementType::kF32, "fp32", MilDtype::kFloat32, kBlobFloat32, 16},
    StoredForm{ElementType::kI8, "int8", MilDtype::kInt8, kBlobInt8, 16},
    StoredForm{ElementType::kI4, "int4", MilDtype::kInt4, kBlobInt4, kBlockwiseRelease},
    StoredForm{ElementType::kPalette1, "palette1", MilDtype::kUint1, kBlobUint1, 16},
    StoredForm{ElementType::kPalette2, "palette2", MilDtype::kUint2, kBlobUint2, 16},
    StoredForm{ElementType::kPalette3, "palette3", MilDtype::kUint3, kBlobUint3, kBlockwiseRelease},
    StoredForm{ElementType::kPalette4, "palette4", MilDtype::kUint4, kBlobUint4, 16},
    StoredForm{ElementType::kPalette6, "palette6", MilDtype::kUint6, kBlobUint6, 16},
    StoredForm{ElementType::kPalette8, "palette8", MilDtype::kUint8, kBlobUint8, 16},
};

constexpr const char* kNewerTarget = "the deployment target iOS18 or macOS15";

// "1, 2 or 4": the bits of the palettes that a target has.
std::string palettes_of(const DeploymentTarget& target) {
  std::vector<std::string> bits;
  for (const StoredForm& form : kForms) {
    if (traits(form.element).kind == ElementKind::kCodebook && form.release <= target.release) {
      bits.push_back(std::to_string(traits(form.element).bits));
    }
  }
  return join(bits, ", ", " or ");
}

}  // namespace

const StoredForm& stored_form(ElementType element) {
  const auto* const found = std::ranges::find(kForms, element, &StoredForm::element);
  if (found == kForms.end()) {
    throw Error(ErrorCode::kInternal, to_string(element), "is no type of a Core ML weight");
  }
  return *found;
}

std::optional<Refusal> refusal(const WeightFormat& format, const DeploymentTarget& target) {
  const std::string title = format.is_quantized() ? std::string(format_row(format.element).title) : "";
  if (format.is_quantized() && stored_form(format.element).release > target.release) {
    if (format.has_codebook()) {
      return Refusal{title + " needs " + kNewerTarget,
                     "raise --minimum-deployment-target, or use palettes of " + palettes_of(target) + " bits"};
    }
    return Refusal{title + " weights with scales need " + kNewerTarget,
                   "raise --minimum-deployment-target, or use --palette"};
  }
  if (format.granularity == Granularity::kRows && target.release < kBlockwiseRelease) {
    return Refusal{std::string("groups of rows with tables of their own need ") + kNewerTarget,
                   "leave out --palette-group for one table a weight"};
  }
  return std::nullopt;
}

}  // namespace diffulex_edge::coreml
