// Which files of a model's folder hold its weights, and what a folder is that has none or no configuration. find_model
// is in diffulex_edge/checkpoint.h.
#pragma once

#include <filesystem>
#include <string>

namespace diffulex_edge {

// One of the two is empty.
struct WeightFiles {
  std::filesystem::path file;
  std::filesystem::path index;  // of the shards

  // Whether it has the name that transformers looks for.
  bool is_usual() const;
};

// model.safetensors or model.safetensors.index.json; else the folder's only file of that kind, whatever its name.
// Throws Error{kBadFile} that says what the folder is: several files, pickled weights, a download that is incomplete.
WeightFiles find_weight_files(const std::filesystem::path& folder);

// For a folder without config.json, likewise.
[[noreturn]] void fail_without_config(const std::filesystem::path& folder);

}  // namespace diffulex_edge
