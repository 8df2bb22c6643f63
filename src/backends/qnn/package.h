// The files beside the ONNX model: what a program needs to know of it without opening it.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "backends/executorch/program_builder.h"
#include "backends/qnn/compiler.h"
#include "backends/qnn/lowering.h"
#include "backends/qnn/soc.h"

namespace diffulex_edge::qnn {

// Of a model: "model.onnx"; of its encodings: "encodings.json", or with the model's stem before it where there are
// several.
std::string model_file(const OnnxModel& model);
std::string encodings_file(const OnnxModel& model);
inline constexpr const char* kManifestFile = "manifest.json";
inline constexpr const char* kManifestFormat = "diffulex-edge-qnn";
inline constexpr std::size_t kMaxManifestBytes = std::size_t{1} << 24U;

// Encodings of activations in the layout of AIMET 0.6.1: for each tensor bitwidth, scale, offset (-zero_point), min,
// max.
std::string describe_encodings(const std::map<std::string, Encoding>& encodings);

// A context binary for one SoC.
struct PackagedContext {
  const Soc* soc = nullptr;
  std::string source;  // the file of the model that it was compiled from
  CompiledContext context;
  std::string sha256;          // of the binary
  std::string program;         // file of the ExecuTorch program around it, if there is one
  bool shares_binary = false;  // with the other models for this SoC
};

struct ManifestFacts {
  std::map<std::string, std::string> notes;  // of the export: options, version, the source's hash
  std::vector<std::string> model_sha256;     // of each model's file
  std::string compiler;                      // its version; empty where none was there
  std::vector<PackagedContext> contexts;
  // Of folders with a cache: how it is kept, and what a program that writes text has to know of the model, as an
  // ExecuTorch program has it in methods.
  std::optional<CacheSettings> cache;
  std::vector<executorch::ConstantMethod> language_model;
};

// Of a model with a cache: bytes of all layers' keys and values in the host's memory, and their type.
std::int64_t cache_bytes(const LoweredModel& lowered);
std::string cache_dtype(const LoweredModel& lowered);

// JSON, ends with a line break.
std::string describe_package(const LoweredModel& lowered, const ManifestFacts& facts);

// Whether the folder was made by this backend, so that a new one may take its place.
bool is_package(const std::filesystem::path& folder);

}  // namespace diffulex_edge::qnn
