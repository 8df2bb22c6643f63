// Qualcomm's compiler: ONNX models to context binaries for the Hexagon NPU, through the onnxruntime-qnn package of a
// Python that the user has. Nothing of that package is part of this library.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "backends/qnn/soc.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/progress.h"

namespace diffulex_edge::qnn {

struct CompiledContext {
  std::filesystem::path model;      // an ONNX model of one EPContext node, which names the binary beside it
  std::filesystem::path binary;     // the context binary
  std::int64_t bytes = 0;           // of the binary
  std::string graph_name;           // of the graph in the binary; ONNX Runtime makes it from the model
  double seconds = 0;               // of the compile itself
  std::int64_t peak_rss_bytes = 0;  // of the process that compiled
};

// What the compiler refused, in its words. Unlike other errors `what()` has no limit of length: the whole message is in
// it, on one line.
class CompilerError final : public Error {
 public:
  CompilerError(const std::string& where, const std::string& message, std::vector<std::string> nodes, std::string log);

  const char* what() const noexcept override { return line_.c_str(); }
  // Names of the nodes that the compiler means; empty where it names none.
  const std::vector<std::string>& nodes() const noexcept { return nodes_; }
  // All that it printed.
  const std::string& log() const noexcept { return log_; }

 private:
  std::string line_;
  std::vector<std::string> nodes_;
  std::string log_;
};

class ContextCompiler {
 public:
  // Looks for a Python that has the onnxruntime-qnn package: `python` if it is not empty; else the one in $VIRTUAL_ENV,
  // then python3 of the PATH. Each is asked by running it, which takes seconds. nullopt where none has it: `missing`
  // then says in one line what to install. Throws Error{kInvalidArgument} where `python` can't be started, and
  // Error{kUnsupported} that says what to install where it has no such package.
  static std::optional<ContextCompiler> find(const std::filesystem::path& python, std::string& missing);

  // "onnxruntime 1.32.0, onnxruntime-qnn 2.7.0, QAIRT 2.51.0.260929181845"
  const std::string& version() const { return version_; }

  // Compiles `onnx` for `soc` into the existing folder `target`: STEM_ctx.onnx and STEM_ctx_qnn.bin, which replace
  // those that are there. Deterministic. Progress: one stage, such as "compile SM8550". Throws
  // CompilerError{kUnsupported} for what the compiler refuses or crashes on, Error{kOutOfMemory} where the system
  // killed it, Error{kCancelled} within about 0.1 s of a request to stop. Then neither file is there, and no process
  // left.
  CompiledContext compile(const std::filesystem::path& onnx, const Soc& soc, const std::filesystem::path& target,
                          const RunControl& control) const;
  // The same for several models, which become the graphs of one binary, named by the first, that holds equal weights
  // once. Seconds and memory are those of all.
  std::vector<CompiledContext> compile_together(const std::vector<std::filesystem::path>& models, const Soc& soc,
                                                const std::filesystem::path& target, const RunControl& control) const;

 private:
  ContextCompiler(std::string python, std::string version);

  std::string python_;
  std::string version_;
};

}  // namespace diffulex_edge::qnn
