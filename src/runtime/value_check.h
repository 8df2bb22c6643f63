// Values that are not finite, found where they arise: the first operator that makes one is named.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "diffulex_edge/graph.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "runtime/execution_session.h"

namespace diffulex_edge {

// After session.step() of `node`. Throws Error{kBadFile} naming the model, the operator, the sequence and the token
// where a value that it made is not finite. Costs a pass over them.
void check_step(const Model& model, const Node& node, const ExecutionSession& session, const RunControl& control);

// run_to_output() with that check of every step.
void run_checked(const Model& model, ExecutionSession& session, const RunControl& control);

// Logits of the model's head, [rows, vocab]. Errors as check_step.
void check_logits(const Model& model, std::span<const float> logits);

}  // namespace diffulex_edge
