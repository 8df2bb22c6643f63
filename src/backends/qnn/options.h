// What the QNN backend's options mean.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "backends/qnn/soc.h"
#include "diffulex_edge/backend.h"

namespace diffulex_edge::qnn {

struct Options {
  std::vector<const Soc*> socs;  // to compile for; none: only the ONNX model
  std::filesystem::path python;  // interpreter with the vendor's compiler; empty: found by itself
  bool host_embedding = false;   // the embedding in a model of its own, for the host
  std::int64_t shards = 1;       // models for the NPU, cut between layers
  bool as_pte = false;           // an ExecuTorch program around each context binary as well
};

// From BackendConfig::backend_options. Error{kInvalidArgument} for unknown options and values.
Options parse_options(const BackendConfig& config);

}  // namespace diffulex_edge::qnn
