// Reads Core ML packages: folders, folders of packages, and packages inside of ExecuTorch programs.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

#include "backends/package_contents.h"

namespace diffulex_edge::coreml {

// Both throw Error{kBadFile}.
PackageContents read_package(const std::filesystem::path& folder);
// A folder with a package for each part of a model, and our manifest.json.
PackageContents read_chunks(const std::filesystem::path& folder);

// What ExecuTorch's delegate "CoreMLBackend" has: a folder with model.mlpackage, flattened. Offsets of weights are
// those in the payload; `name` is the file's, for messages. Throws Error{kBadFile}.
PackageContents read_payload(std::span<const std::byte> payload, const std::string& name);

// Where the payload only refers to another one in the program's named data: that one's key, else an empty string.
std::string referenced_payload(std::span<const std::byte> payload, const std::string& name);

}  // namespace diffulex_edge::coreml
