// Inputs of a function that computes one step of a text, and what follows from them.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>

#include "backends/cache_plan.h"
#include "backends/coreml/mil_operations.h"

namespace diffulex_edge::coreml {

// Beside the tokens, int32 [1, B], a step has start_pos: the first one's position; token_count: how many count, from
// the first on, since B is one of few numbers and the caller fills it up; and context_len, in bidirectional models: the
// end of what the tokens see. All are int32 [1]. They become inputs of the function where they are first asked for.
class StepInputs {
 public:
  // B may be known only at run time: `length` gives it as int32 [1], `indices` 0 to B as int32 [B]. Keeps the
  // reference.
  StepInputs(MilOperations& operations, CachePlan plan, std::function<Id()> length, std::function<Id()> indices)
      : operations_(operations), plan_(std::move(plan)), length_(std::move(length)), indices_(std::move(indices)) {}

  // Takes the inputs' names, so that no operation gets them.
  void take_names();

  const CachePlan& plan() const { return plan_; }
  Id start() { return inputs().start; }  // int32 [1], as the four below
  Id end();                              // behind the last token that counts
  Id seen();                             // the end of what the tokens see
  Id last();                             // the place of the last token that counts, in the step
  Id length() { return length_(); }
  Id counted();    // which of the tokens count, bool [B, 1]
  Id positions();  // of all B tokens, int32 [B]
  // The same, but none is beyond the cache: those of tokens that do not count may be. What tables are asked for.
  Id table_rows();

 private:
  struct Inputs {
    Id start = 0;
    Id count = 0;
    std::optional<Id> seen;
  };
  const Inputs& inputs();

  MilOperations& operations_;
  CachePlan plan_;
  std::function<Id()> length_;
  std::function<Id()> indices_;
  std::optional<Inputs> inputs_;
  std::optional<Id> end_;
  std::optional<Id> last_;
  std::optional<Id> counted_;
  std::optional<Id> positions_;
  std::optional<Id> table_rows_;
};

}  // namespace diffulex_edge::coreml
