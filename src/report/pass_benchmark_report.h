// What `bench` measured.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "diffulex_edge/model.h"
#include "diffulex_edge/quantization.h"
#include "diffusion/pass_benchmark.h"

namespace diffulex_edge {

struct PassBenchmarkReport {
  const Model& model;
  const QuantizationPlan* plan = nullptr;  // null: as stored
  const PassBenchmarkOptions& options;
  const PassBenchmark& result;
  std::string processor;
  std::string instruction_set;  // of the packed kernels
  std::size_t threads = 0;
  std::vector<std::int64_t> passes_per_block = {1, 2, 4};  // for which decoding's speed is told
  std::vector<std::string> warnings;
};
std::string to_json(const PassBenchmarkReport& report);
std::string to_text(const PassBenchmarkReport& report);

}  // namespace diffulex_edge
