#include "models/input_guard.h"

#include <set>

#include "diffulex_edge/error.h"

namespace diffulex_edge {

void refuse_input_as_target(const Model& model, const std::filesystem::path& target) {
  std::set<std::filesystem::path> inputs = {model.path / "config.json"};
  inputs.merge(model.checkpoint->files());
  for (const std::filesystem::path& input : inputs) {
    std::error_code error;
    if (std::filesystem::equivalent(input, target, error)) {
      throw Error(ErrorCode::kInvalidArgument, target.string(), "is a file of the model itself", "name another output");
    }
  }
}

}  // namespace diffulex_edge
