// An artefact's copy, which appears under its name only when complete.
#pragma once

#include <filesystem>

namespace diffulex_edge {

// Copies a file, or a folder with all that is in it, to `target`, in the way of OutputFile and OutputFolder. Throws
// Error{kBadFile} where the source can't be read, and Error{kIo} naming the target.
void copy_to_output(const std::filesystem::path& source, const std::filesystem::path& target);

}  // namespace diffulex_edge
