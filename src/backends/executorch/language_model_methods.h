// What a program that writes text with a language model has to know of it, in the .pte itself.
#pragma once

#include <string>
#include <vector>

#include "backends/executorch/program_builder.h"
#include "diffulex_edge/model.h"

namespace diffulex_edge::executorch {

struct LanguageModelMethods {
  std::vector<ConstantMethod> methods;
  std::vector<std::string> warnings;
};

// The methods that ExecuTorch's runner of language models reads, and what decoding a diffusion model asks for besides
// (docs/USER_GUIDE.md has the table). What the model's folder does not say has no method; where its files can't be
// read, a warning says why. None at all for a model that is from no folder: a torch.nn.Module is any function.
LanguageModelMethods language_model_methods(const Model& model, bool takes_shorter_inputs);

}  // namespace diffulex_edge::executorch
