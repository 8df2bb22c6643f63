// Inputs as files in memory.
//
// An input of several files has a line "%%% NAME" before each of them:
//
//   %%% config.json
//   {"model_type": "llama"}
//   %%% model.safetensors
//   ...
//
// One that does not begin so is a single file.
#pragma once

#include <filesystem>
#include <initializer_list>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace diffulex_edge::fuzz {

struct InputFile {
  std::string_view name;
  std::string_view content;
};

// Empty for a single file. A line end before a mark belongs to the mark.
std::vector<InputFile> split_input(std::string_view input);
std::string join_input(const std::vector<std::pair<std::string, std::string>>& files);

// A folder of this process, in memory where there is such a place.
class InputFolder {
 public:
  // `extension` is the folder's own, as ".mlpackage". Only files of these paths are written: an input can't leave it.
  explicit InputFolder(std::initializer_list<std::string> names, const std::string& extension = {});
  ~InputFolder();
  InputFolder(const InputFolder&) = delete;
  InputFolder& operator=(const InputFolder&) = delete;
  InputFolder(InputFolder&&) = delete;
  InputFolder& operator=(InputFolder&&) = delete;

  // Writes the files of an input, a single one under the first name, and removes those of the input before.
  void fill(std::string_view input);
  const std::filesystem::path& path() const { return folder_; }
  std::filesystem::path operator/(const std::string& name) const { return folder_ / name; }
  bool has(const std::string& name) const { return written_.contains(name); }

 private:
  std::vector<std::string> names_;
  std::filesystem::path place_;
  std::filesystem::path folder_;
  std::set<std::string> written_;
};

}  // namespace diffulex_edge::fuzz
