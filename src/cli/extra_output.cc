#include "cli/extra_output.h"

#include <filesystem>
#include <system_error>

#include "core/output_file.h"
#include "diffulex_edge/error.h"
#include "models/input_guard.h"

namespace diffulex_edge::cli {
namespace {

std::filesystem::path resolved(const std::string& path) {
  std::error_code error;
  return std::filesystem::weakly_canonical(std::filesystem::absolute(path, error), error);
}

}  // namespace

void check_extra_output(const std::string& path, const std::string& what, std::int64_t bytes, const Model& model,
                        const std::vector<std::string>& others) {
  refuse_input_as_target(model, path);
  for (const std::string& other : others) {
    std::error_code error;
    if (!other.empty() && (resolved(path) == resolved(other) || std::filesystem::equivalent(path, other, error))) {
      throw Error(ErrorCode::kInvalidArgument, path, "is both " + what + " and another file of this command",
                  "name another file");
    }
  }
  const OutputFile probe(path, bytes);
}

}  // namespace diffulex_edge::cli
