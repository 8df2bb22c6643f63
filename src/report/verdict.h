// A report's result in one sentence.
#pragma once

#include <string>

#include "diffulex_edge/report.h"

namespace diffulex_edge {

std::string verdict(const EvaluationReport& report);
std::string verdict(const ExportReport& report);
std::string verdict(const PlanReport& report);

// "set 15"; "next token" and "bound" are sets by name.
std::string set_name(const std::string& label);
// The set that the comparison's words are about: where the loss rises most among those where it measurably does, or
// else among all. `sets` are not empty and compared.
const SetResult& worst_loss(const std::vector<SetResult>& sets);
// Of all weights of the plan in FP32, equal ones once.
std::int64_t original_bytes(const QuantizationPlan& plan);

}  // namespace diffulex_edge
