// An ExecuTorch program whose one delegate is QNN, around a context binary. docs/FORMATS.md has the layout.
#pragma once

#include <filesystem>
#include <vector>

#include "backends/executorch/program_builder.h"
#include "backends/qnn/onnx_graph.h"
#include "backends/qnn/package.h"
#include "diffulex_edge/progress.h"

namespace diffulex_edge::qnn {

// Writes `target`. The program's method has the name of the graph in the binary, without which ExecuTorch does not find
// it; its inputs and outputs are those of `graph`; `constants` come behind it. The binary is streamed. Returns the
// file's bytes.
std::int64_t write_pte(const std::filesystem::path& target, const OnnxGraph& graph, const PackagedContext& packaged,
                       const std::vector<executorch::ConstantMethod>& constants, const RunControl& control);

}  // namespace diffulex_edge::qnn
