#include "core/copy_output.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include "core/output_file.h"
#include "core/output_folder.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

void copy_one_file(const fs::path& source, const fs::path& target) {
  constexpr std::size_t kPiece = std::size_t{4} << 20U;
  std::ifstream in(source, std::ios::binary | std::ios::ate);
  const std::int64_t size = in ? static_cast<std::int64_t>(in.tellg()) : -1;
  if (size < 0 || !in.seekg(0)) {
    throw Error(ErrorCode::kBadFile, source.string(), "can't be read");
  }
  OutputFile out(target, size);
  std::vector<char> buffer(kPiece);
  for (std::int64_t at = 0; at < size;) {
    in.read(buffer.data(), static_cast<std::streamsize>(std::min<std::int64_t>(size - at, std::ssize(buffer))));
    const std::streamsize count = in.gcount();
    if (count <= 0) {
      throw Error(ErrorCode::kBadFile, source.string(), "was cut short while it was read");
    }
    out.write(at, std::as_bytes(std::span(buffer.data(), static_cast<std::size_t>(count))));
    at += count;
  }
  out.commit();
}

}  // namespace

void copy_to_output(const fs::path& source, const fs::path& target) {
  std::error_code error;
  if (!fs::is_directory(source, error)) {
    copy_one_file(source, target);
    return;
  }
  OutputFolder folder(target);
  fs::copy(source, folder.path(), fs::copy_options::recursive, error);
  if (error) {
    throw Error(ErrorCode::kIo, target.string(), "can't copy " + source.string() + ": " + error.message());
  }
  folder.commit();
}

}  // namespace diffulex_edge
