// Files without a name, of which nothing is left if the process dies.
#pragma once

#include <sys/types.h>

#include <filesystem>

namespace diffulex_edge {

// Opens one in `folder`, to read and write. -1 where the system has none, or no way to name one later; errno is what
// open() left then.
int open_unnamed(const std::filesystem::path& folder, mode_t mode);

// Gives it a name in its folder's file system; false, and errno, where that fails: an existing file is not replaced.
bool link_unnamed(int descriptor, const std::filesystem::path& name);

}  // namespace diffulex_edge
