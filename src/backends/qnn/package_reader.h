// Reads folders that the QNN backend wrote.
#pragma once

#include <filesystem>

#include "backends/package_contents.h"

namespace diffulex_edge::qnn {

// Throws Error{kBadFile}.
PackageContents read_package(const std::filesystem::path& folder);

}  // namespace diffulex_edge::qnn
