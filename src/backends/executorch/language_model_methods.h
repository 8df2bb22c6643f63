// What a program that writes text with a language model has to know of it, in the .pte itself.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backends/cache_plan.h"
#include "backends/executorch/program_builder.h"
#include "diffulex_edge/model.h"

namespace diffulex_edge::executorch {

struct LanguageModelMethods {
  std::vector<ConstantMethod> methods;
  std::vector<std::string> warnings;
};

// How a program is called.
struct ProgramInputs {
  std::int64_t step_tokens = 0;     // of one execution, at most
  std::int64_t context_tokens = 0;  // that an execution sees, at most
  bool takes_fewer_tokens = false;
  std::string cache = "none";  // "exact": block-causal; "approximate": bidirectional, for the prefix and dual caches
  std::string logits = "all";  // "last", "rows"
};

// Of whole sequences of the model's length, or of the steps of a cache.
ProgramInputs program_inputs(const Model& model, const std::optional<CachePlan>& cache, bool takes_fewer_tokens);

// The methods that ExecuTorch's runner of language models reads, and what decoding a diffusion model asks for besides
// (docs/USER_GUIDE.md has the table). What the model's folder does not say has no method; where its files can't be
// read, a warning says why. None at all for a model that is from no folder: a torch.nn.Module is any function.
LanguageModelMethods language_model_methods(const Model& model, const ProgramInputs& inputs);

// The same as one JSON object, by the methods' names, for artefacts that are no programs of ExecuTorch.
std::string methods_as_json(const std::vector<ConstantMethod>& methods);

}  // namespace diffulex_edge::executorch
