// Where a path leads.
#pragma once

#include <filesystem>
#include <string_view>

namespace diffulex_edge {

// Whether something is there, be it readable or not. Throws Error{kBadFile} for a link to nothing, which is a file that
// should be there: the hub's cache has links to files that a broken download did not bring.
bool is_present(const std::filesystem::path& path);

// Whether a relative path, of names that a file from a stranger gives, stays below where it begins.
bool is_inside(std::string_view path);

// The folder that holds `path`; "." where none is named.
std::filesystem::path folder_of(const std::filesystem::path& path);

// `path` without a slash at its end, which would make a link stand for what it leads to.
std::filesystem::path without_slash(const std::filesystem::path& path);

// What a link leads to, link after link; `target` itself where it is none. Of a folder, the slash at the end of a
// link's text is dropped; of a file it stays, and no file can be made there. Throws Error{kIo} for links in a circle.
std::filesystem::path follow_links(const std::filesystem::path& target, bool to_folder);

}  // namespace diffulex_edge
