// What is in a checkpoint or an artefact.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"

namespace diffulex_edge {

struct InspectedTensor {
  std::string name;
  std::string type;                 // a safetensors dtype, or an XNNPACK data type such as "qbint4"
  std::vector<std::int64_t> shape;  // logical: an INT4 weight counts its elements, not its bytes
  std::int64_t group_size = 0;      // elements that share a scale; 0: none or a whole row
  std::int64_t bytes = 0;
  std::int64_t offset = 0;  // in its file
  std::string file;         // name of the file
  std::string sha256;       // of the bytes; empty without hashes
};

struct InspectedValue {
  std::string type;
  std::vector<std::int64_t> sizes;  // upper bounds where dynamic
  bool dynamic = false;
};

struct InspectedDelegate {
  std::string id;
  std::int64_t bytes = 0;
  // How many nodes of each kind, and how many values of each data type that are no constants, such as "qint8" for
  // static activations; empty for other backends than XNNPACK.
  std::map<std::string, std::int64_t> nodes;
  std::map<std::string, std::int64_t> values;
};

struct InspectedMethod {
  std::string name;
  std::vector<InspectedValue> inputs;
  std::vector<InspectedValue> outputs;
  std::vector<std::string> operators;  // outside the delegates, in order of execution
  std::vector<InspectedDelegate> delegates;
  std::int64_t arena_bytes = 0;  // planned memory for inputs, outputs and what passes between instructions
};

struct Inspection {
  std::string kind;  // "checkpoint", "safetensors" or "executorch_program"
  std::filesystem::path path;
  std::int64_t file_bytes = 0;  // checkpoints: of all tensors
  std::string sha256;           // of a single file
  std::optional<ModelConfig> config;
  std::vector<InspectedMethod> methods;
  std::vector<InspectedTensor> tensors;

  // Of a checkpoint. 0 for a program, whose tensors include scales and computed constants.
  std::int64_t parameters() const;
};

struct InspectOptions {
  bool hashes = true;  // reading every byte for SHA-256
};

// Recognizes a model folder, a .safetensors file and an ExecuTorch program by content. Throws Error{kBadFile} for
// anything else and for files that contradict themselves.
Inspection inspect(const std::filesystem::path& path, const InspectOptions& options = {},
                   const RunControl& control = {});

}  // namespace diffulex_edge
