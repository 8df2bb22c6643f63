// What the Core ML backend's options mean.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/backend.h"

namespace diffulex_edge::coreml {

// The oldest system that runs a model. It decides which operators there are.
struct DeploymentTarget {
  std::string_view name;   // "iOS18"; macOS15 is the same
  int release = 0;         // of iOS: 16, 17, 18
  int specification = 0;   // the model format's version
  std::string_view opset;  // "CoreML8"
};

// Error{kInvalidArgument} naming the known ones.
const DeploymentTarget& parse_deployment_target(std::string_view text);
// Of iOS, then of macOS.
std::vector<std::string> deployment_target_names();
// The one with that release of iOS.
const DeploymentTarget& deployment_target(int release);

// The first release with `quantize` and `dequantize`, which mode static needs.
inline constexpr int kStaticRelease = 17;
// The first release with scales for blocks, types of less than 8 bits, tables for groups of rows, and fused attention.
inline constexpr int kBlockwiseRelease = 18;

// Where keys and values are from one step of a text to the next.
enum class CacheStorage {
  kState,   // in the model's state, from iOS18 on
  kInputs,  // with the caller, who passes them in and takes those of the step
};

// The first release with states.
inline constexpr int kStateRelease = 18;

struct Options {
  const DeploymentTarget* target = nullptr;
  std::string compute_unit = "all";
  bool palette = false;                    // palettes of 4 bits in place of INT4
  std::int64_t palette_group = 0;          // QuantizationConfig's
  std::optional<std::int64_t> chunk_size;  // bytes of one weight file at most
  bool chunks_are_packages = false;        // each part a package of its own; else one package with a pipeline
  bool as_pte = false;                     // an ExecuTorch program around the package
  CacheStorage cache_storage = CacheStorage::kState;
};

// From BackendConfig::backend_options.
// Error{kInvalidArgument} for unknown options and values, kUnsupported for a palette group that the target lacks.
Options parse_options(const BackendConfig& config);

}  // namespace diffulex_edge::coreml
