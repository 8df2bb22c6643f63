// Which model it was: hashes of a model folder's files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"

namespace diffulex_edge {

struct FileHash {
  std::string name;  // without its folder
  std::int64_t bytes = 0;
  std::string sha256;  // 64 lower-case hexadecimal digits
};

// What the model is made of: config.json, then its safetensors files in the order of their names. `sha256` is that of
// the lines "SHA256  NAME", as `LC_ALL=C; sha256sum config.json *.safetensors | sha256sum` prints it in the model's
// folder. Of a model whose tensors are in memory, each tensor's bytes count as a file of its name.
struct ModelHash {
  std::string sha256;
  std::vector<FileHash> files;
};

// Reads every byte, files side by side, and gives memory back as it goes. Errors: kBadFile, kCancelled.
ModelHash hash_model(const Model& model, const RunControl& control = {});

}  // namespace diffulex_edge
