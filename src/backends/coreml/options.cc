#include "backends/coreml/options.h"

#include <algorithm>
#include <array>

#include "backends/option_values.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge::coreml {
namespace {

constexpr std::array kTargets = {
    DeploymentTarget{.name = "iOS16", .release = 16, .specification = 7, .opset = "CoreML6"},
    DeploymentTarget{.name = "iOS17", .release = 17, .specification = 8, .opset = "CoreML7"},
    DeploymentTarget{.name = "iOS18", .release = 18, .specification = 9, .opset = "CoreML8"},
};
// macOS 13 came with iOS 16, and so on.
constexpr std::array<std::string_view, 3> kMacNames = {"macOS13", "macOS14", "macOS15"};

std::string parse_compute_unit(const std::string& text) {
  constexpr std::array<std::string_view, 4> kUnits = {"all", "cpu_only", "cpu_and_gpu", "cpu_and_ne"};
  if (std::ranges::find(kUnits, text) == kUnits.end()) {
    throw Error(ErrorCode::kInvalidArgument, "compute unit",
                "'" + text + "' is not one of all, cpu_only, cpu_and_gpu, cpu_and_ne");
  }
  return text;
}

}  // namespace

const DeploymentTarget& parse_deployment_target(std::string_view text) {
  for (std::size_t i = 0; i < kTargets.size(); ++i) {
    if (text == kTargets.at(i).name || text == kMacNames.at(i)) {
      return kTargets.at(i);
    }
  }
  throw Error(ErrorCode::kInvalidArgument, "minimum deployment target",
              "'" + std::string(text) + "' is not one of iOS16, iOS17, iOS18, macOS13, macOS14, macOS15");
}

const DeploymentTarget& deployment_target(int release) {
  return *std::ranges::find(kTargets, release, &DeploymentTarget::release);
}

Options parse_options(const BackendConfig& config) {
  Options options{.target = &kTargets.back(), .chunk_size = {}};
  for (const auto& [name, value] : config.backend_options) {
    if (name == "minimum_deployment_target") {
      options.target = &parse_deployment_target(value);
    } else if (name == "compute_unit") {
      options.compute_unit = parse_compute_unit(value);
    } else if (name == "palette") {
      options.palette = parse_choice(name, value, "false", "true");
    } else if (name == "palette_group") {
      options.palette_group = parse_count("palette group", value, 0);
    } else if (name == "chunk_size") {
      options.chunk_size = parse_count("chunk size", value, 1);
    } else if (name == "chunks") {
      options.chunks_are_packages = parse_choice(name, value, "pipeline", "packages");
    } else if (name == "container") {
      options.as_pte = parse_choice(name, value, "mlpackage", "pte");
    } else {
      throw Error(ErrorCode::kInvalidArgument, "backend option '" + name + "'", "is not known to the Core ML backend");
    }
  }
  if (options.palette_group > 0 && !options.palette) {
    throw Error(ErrorCode::kInvalidArgument, "palette group", "is given without palettes", "add --palette");
  }
  if (options.palette_group > 0 && options.target->release < kBlockwiseRelease) {
    throw Error(ErrorCode::kUnsupported, "palette group",
                "groups of rows with tables of their own need the deployment target iOS18 or macOS15",
                "leave it out for one table a weight");
  }
  if (options.chunks_are_packages && !options.chunk_size) {
    throw Error(ErrorCode::kInvalidArgument, "chunks", "are asked for without a chunk size", "add --chunk-size");
  }
  if (options.as_pte && options.chunk_size) {
    throw Error(ErrorCode::kUnsupported, "container pte", "holds the model as one part", "leave out --chunk-size");
  }
  return options;
}

}  // namespace diffulex_edge::coreml
