#include "runtime/pack_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>

#include "core/json.h"
#include "core/output_file.h"
#include "core/round_up.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

static_assert(std::endian::native == std::endian::little, "images are in this order");

constexpr std::string_view kMagic = "DLXPACK1";
constexpr std::size_t kPrefix = kMagic.size() + sizeof(std::uint64_t);
constexpr std::uint64_t kMostHeaderBytes = std::uint64_t{64} << 20U;
constexpr std::int64_t kAlignment = 64;  // kernels read whole lines, and one beyond the end
constexpr std::size_t kPiece = std::size_t{4} << 20U;

struct Layout {
  std::string header;
  std::vector<std::int64_t> places;
  std::int64_t bytes = 0;
};

// Places depend on the header's size, which depends on the places' digits: they are counted from the header's end, and
// that is found first.
Layout lay_out(const std::string& key, std::span<const std::span<const std::byte>> images) {
  Layout layout;
  nlohmann::ordered_json pairs = nlohmann::ordered_json::array();
  std::int64_t end = 0;
  for (const std::span<const std::byte> image : images) {
    layout.places.push_back(end);
    pairs.push_back({end, image.size()});
    end = round_up(end + static_cast<std::int64_t>(image.size()), kAlignment) + kAlignment;
  }
  layout.header = nlohmann::ordered_json{{"key", key}, {"images", pairs}, {"bytes", end}}.dump();
  const std::int64_t begin = round_up(static_cast<std::int64_t>(kPrefix + layout.header.size()), kAlignment);
  layout.header.resize(static_cast<std::size_t>(begin) - kPrefix, ' ');
  for (std::int64_t& place : layout.places) {
    place += begin;
  }
  layout.bytes = begin + end;
  return layout;
}

}  // namespace

std::filesystem::path PackFile::path_of(const std::filesystem::path& folder, const std::string& key) {
  return folder / (key.substr(0, 32) + ".pack");
}

PackFile::PackFile(const std::filesystem::path& path) : file_(std::make_shared<const MappedFile>(path)) {}

void PackFile::fail(const std::string& what) const {
  throw Error(ErrorCode::kBadFile, file_->path().string(), what, "delete it: it is written again");
}

std::optional<PackFile> PackFile::open(const std::filesystem::path& folder, const std::string& key) {
  const std::filesystem::path path = path_of(folder, key);
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    return std::nullopt;
  }
  PackFile file(path);
  file.read_header(key);
  return file;
}

void PackFile::read_header(const std::string& key) {
  const std::span<const std::byte> bytes = file_->bytes();
  std::uint64_t header_bytes = 0;
  if (bytes.size() < kPrefix || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    fail("is no file of packed weights");
  }
  std::memcpy(&header_bytes, bytes.data() + kMagic.size(), sizeof(header_bytes));
  if (header_bytes > kMostHeaderBytes || header_bytes > bytes.size() - kPrefix) {
    fail("has a header of " + std::to_string(header_bytes) + " bytes, more than the file has");
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kPrefix, header_bytes);
  const nlohmann::json header = parse_json(text, file_->path().string());
  file_->check();
  if (!header.is_object() || header.value("key", nlohmann::json()) != key || !header.contains("images") ||
      !header["images"].is_array()) {
    fail("is not the file of this model's packed weights");
  }
  const std::size_t begin = kPrefix + header_bytes;
  for (const nlohmann::json& pair : header["images"]) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_number_unsigned() || !pair[1].is_number_unsigned()) {
      fail("has a broken header");
    }
    const auto place = pair[0].get<std::uint64_t>();
    const auto size = pair[1].get<std::uint64_t>();
    const std::uint64_t room = bytes.size() - begin;
    if (place % kAlignment != 0 || place > room || size > room - place) {
      fail("is cut, or broken: a weight of " + std::to_string(size) + " bytes is not in it");
    }
    images_.push_back(bytes.subspan(begin + place, size));
  }
}

void PackFile::write(const std::filesystem::path& folder, const std::string& key,
                     std::span<const std::span<const std::byte>> images, const RunControl& control) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    throw Error(ErrorCode::kIo, folder.string(), "could not be made: " + error.message());
  }
  const Layout layout = lay_out(key, images);
  OutputFile output(path_of(folder, key), layout.bytes);
  const std::uint64_t header_bytes = layout.header.size();
  output.write(0, std::as_bytes(std::span(kMagic)));
  output.write(static_cast<std::int64_t>(kMagic.size()), std::as_bytes(std::span(&header_bytes, 1)));
  output.write(static_cast<std::int64_t>(kPrefix), std::as_bytes(std::span(layout.header)));
  for (std::size_t i = 0; i < images.size(); ++i) {
    for (std::size_t done = 0; done < images[i].size(); done += kPiece) {
      if (control.stop.stop_requested()) {
        throw Error(ErrorCode::kCancelled, {}, "stopped");
      }
      output.write(layout.places[i] + static_cast<std::int64_t>(done),
                   images[i].subspan(done, std::min(kPiece, images[i].size() - done)));
    }
  }
  output.flush(control.stop);
  output.commit();
}

}  // namespace diffulex_edge
