// Files of a Core ML package (.mlpackage). docs/FORMATS.md has the layout.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "backends/coreml/mil_program.h"
#include "backends/coreml/options.h"
#include "diffulex_edge/backend.h"

namespace diffulex_edge::coreml {

// What a model says of itself.
struct ModelNotes {
  std::string description;
  std::map<std::string, std::string> user_defined;
};

// The message Model: an ML Program with its inputs and outputs. Lengths of the inputs' sequence dimension are those of
// `lengths`.
std::string serialize_model(const MilFunction& function, const InputLengths& lengths, const DeploymentTarget& target,
                            const ModelNotes& notes);
// A pipeline of such models, in order: an output goes to the next model's input of that name.
std::string serialize_pipeline(const std::vector<const MilFunction*>& functions, const InputLengths& lengths,
                               const DeploymentTarget& target, const ModelNotes& notes);

// Manifest.json. Identifiers follow from the model's bytes, so that equal exports have equal bytes.
std::string package_manifest(const std::string& model);

// Places in a package.
inline constexpr const char* kManifestFile = "Manifest.json";
inline constexpr const char* kModelFile = "Data/com.apple.CoreML/model.mlmodel";
inline constexpr const char* kWeightsFolder = "Data/com.apple.CoreML/weights";
// In a folder of packages: which parts there are and what passes between them.
inline constexpr const char* kChunksManifest = "manifest.json";
inline constexpr const char* kChunksFormat = "diffulex-edge coreml chunks";

// Whether the folder looks like a package, so that a new one may take its place.
bool is_package(const std::filesystem::path& folder);
// Whether the folder of packages was made by this backend, so that a new one may take its place.
bool is_chunks_folder(const std::filesystem::path& folder);

}  // namespace diffulex_edge::coreml
