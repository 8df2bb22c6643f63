#include "backends/coreml/options.h"

#include <algorithm>
#include <array>

#include "backends/coreml/description.h"
#include "backends/option_values.h"
#include "diffulex_edge/error.h"
#include "quant/layer_formats.h"

namespace diffulex_edge::coreml {
namespace {

constexpr std::array kTargets = {
    DeploymentTarget{.name = "iOS16", .release = 16, .specification = 7, .opset = "CoreML6"},
    DeploymentTarget{.name = "iOS17", .release = 17, .specification = 8, .opset = "CoreML7"},
    DeploymentTarget{.name = "iOS18", .release = 18, .specification = 9, .opset = "CoreML8"},
};
// macOS 13 came with iOS 16, and so on.
constexpr std::array<std::string_view, 3> kMacNames = {"macOS13", "macOS14", "macOS15"};

CacheStorage cache_storage(const std::string& text, const DeploymentTarget& target) {
  if (text == "inputs" || (text == "auto" && target.release < kStateRelease)) {
    return CacheStorage::kInputs;
  }
  if (target.release < kStateRelease) {
    throw Error(ErrorCode::kUnsupported, "cache storage", "states need the deployment target iOS18 or macOS15",
                "raise --minimum-deployment-target, or use --cache-storage inputs");
  }
  return CacheStorage::kState;
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

std::vector<std::string> deployment_target_names() {
  std::vector<std::string> names;
  for (const DeploymentTarget& target : kTargets) {
    names.emplace_back(target.name);
  }
  names.insert(names.end(), kMacNames.begin(), kMacNames.end());
  return names;
}

const DeploymentTarget& deployment_target(int release) {
  return *std::ranges::find(kTargets, release, &DeploymentTarget::release);
}

Options parse_options(const BackendConfig& config) {
  const OptionValues values(description(), config.backend_options);
  const DeploymentTarget* target = &parse_deployment_target(values.text("minimum_deployment_target"));
  const Options options{.target = target,
                        .compute_unit = values.text("compute_unit"),
                        .palette = values.is_on("palette"),
                        .palette_group = values.count("palette_group"),
                        .chunk_size = values.size("chunk_size"),
                        .chunks_are_packages = values.text("chunks") == "packages",
                        .as_pte = values.text("container") == "pte",
                        .cache_storage = cache_storage(values.text("cache_storage"), *target)};
  if (options.palette_group > 0 && !options.palette && !has_palettes(config.quant_config)) {
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
