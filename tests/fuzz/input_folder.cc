#include "input_folder.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <system_error>

namespace diffulex_edge::fuzz {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMark = "%%% ";
constexpr std::string_view kMarkInside = "\n%%% ";

void write(const fs::path& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  file.close();
  if (!file) {
    throw std::runtime_error("could not write " + path.string());
  }
}

}  // namespace

std::vector<InputFile> split_input(std::string_view input) {
  std::vector<InputFile> files;
  bool has_mark = input.starts_with(kMark);
  input.remove_prefix(has_mark ? kMark.size() : 0);
  while (has_mark) {
    const std::size_t end_of_name = std::min(input.find('\n'), input.size());
    const std::size_t begin = std::min(end_of_name + 1, input.size());
    // An empty file: its line's end is the next mark's.
    const std::size_t next = std::min(input.find(kMarkInside, end_of_name), input.size());
    files.push_back({.name = input.substr(0, end_of_name),
                     .content = next < begin ? std::string_view() : input.substr(begin, next - begin)});
    has_mark = next < input.size();
    input.remove_prefix(has_mark ? next + kMarkInside.size() : input.size());
  }
  return files;
}

std::string join_input(const std::vector<std::pair<std::string, std::string>>& files) {
  std::string input;
  for (const auto& [name, content] : files) {
    input += input.empty() ? kMark : kMarkInside;
    input += name + "\n" + content;
  }
  return input;
}

InputFolder::InputFolder(std::initializer_list<std::string> names, const std::string& extension) : names_(names) {
  const fs::path memory = "/dev/shm";
  const fs::path place = fs::is_directory(memory) ? memory : fs::temp_directory_path();
  std::string pattern = (place / "diffulex-edge-fuzz-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) {
    throw std::runtime_error("can't make a folder in " + place.string());
  }
  place_ = pattern;
  folder_ = place_ / ("input" + extension);
  for (const std::string& name : names_) {
    fs::create_directories((folder_ / name).parent_path());
  }
}

InputFolder::~InputFolder() {
  std::error_code ignored;
  fs::remove_all(place_, ignored);
}

void InputFolder::fill(std::string_view input) {
  std::set<std::string> before;
  before.swap(written_);
  const auto put = [&](const std::string& name, std::string_view content) {
    write(folder_ / name, content);
    written_.insert(name);
    before.erase(name);
  };
  const std::vector<InputFile> files = split_input(input);
  if (files.empty()) {
    put(names_.front(), input);
  }
  for (const auto& [name, content] : files) {
    if (std::ranges::find(names_, name) != names_.end()) {
      put(std::string(name), content);
    }
  }
  for (const std::string& name : before) {
    fs::remove(folder_ / name);
  }
}

}  // namespace diffulex_edge::fuzz
