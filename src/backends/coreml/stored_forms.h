// What Core ML makes of each format: how its elements are stored, from which system on, and why not where it has none.
// Support, checks before an export, and lowering all ask here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "backends/coreml/mil_program.h"
#include "backends/coreml/options.h"
#include "diffulex_edge/weight_format.h"

namespace diffulex_edge::coreml {

struct StoredForm {
  ElementType element = ElementType::kF32;
  std::string_view name;  // in names of kernels: "int4", "palette4"
  MilDtype type = MilDtype::kFloat32;
  std::uint32_t blob = 0;  // the weight file's type
  int release = 0;         // the first release of iOS that has it
};
// Error{kInternal} for an element that no weight is stored as (bfloat16).
const StoredForm& stored_form(ElementType element);

struct Refusal {
  std::string why;
  std::string advice;
};
// Why a program for `target` can't have weights in `format`; nullopt where it can.
std::optional<Refusal> refusal(const WeightFormat& format, const DeploymentTarget& target);

}  // namespace diffulex_edge::coreml
