// What the QNN backend's options mean.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "backends/qnn/soc.h"
#include "backends/qnn/step_tensors.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/model.h"

namespace diffulex_edge::qnn {

struct Options {
  std::vector<const Soc*> socs;  // to compile for; none: only the ONNX model
  std::filesystem::path python;  // interpreter with the vendor's compiler; empty: found by itself
  bool host_embedding = false;   // the embedding in a model of its own, for the host
  std::int64_t shards = 1;       // models for the NPU, cut between layers
  bool as_pte = false;           // an ExecuTorch program around each context binary as well
  bool share_weights = false;    // one context binary for all models of an NPU
};

// From BackendConfig::backend_options. Error{kInvalidArgument} for unknown options and values.
Options parse_options(const BackendConfig& config);

// From `cache` and what goes with it, for a model. Errors: those of read_cache_plan, and kInvalidArgument for an
// integer cache of a model in floating point.
std::optional<CacheSettings> parse_cache(const BackendConfig& config, const Model& model, bool is_static);

}  // namespace diffulex_edge::qnn
