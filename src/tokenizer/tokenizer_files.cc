// Which files of a folder make its tokenizer, and what they say.
#include "tokenizer/tokenizer_files.h"

#include <array>
#include <string_view>
#include <system_error>

#include "diffulex_edge/error.h"
#include "diffulex_edge/tokenizer.h"
#include "model_files/gguf_file.h"
#include "model_files/model_files.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/tokenizer_config.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/vocabulary_files.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

struct MainFile {
  std::string_view name;
  std::string_view companion;  // without which it is no tokenizer; empty: none
  TokenizerSource (*read)(const fs::path& path);
};

TokenizerSource read_sentencepiece(const fs::path& path) {
  return sentencepiece_source(read_sentencepiece_model(path), read_tokenizer_config(path.parent_path()), path.string());
}

constexpr std::array<MainFile, 4> kMainFiles = {{{"tokenizer.json", "", read_tokenizer_json},
                                                 {"vocab.json", "merges.txt", read_vocabulary_and_merges},
                                                 {"tokenizer.model", "", read_sentencepiece},
                                                 {"vocab.txt", "", read_word_piece_vocabulary}}};

const MainFile* find_main_file(const fs::path& folder) {
  for (const MainFile& file : kMainFiles) {
    if (has_document(folder / file.name) && (file.companion.empty() || has_document(folder / file.companion))) {
      return &file;
    }
  }
  return nullptr;
}

// By the name's end, so that any .json file may be a tokenizer.json.
const MainFile& reader_of(const fs::path& path) {
  const std::string name = path.filename().string();
  for (const MainFile& file : kMainFiles) {
    if (name == file.name || (file.name == "tokenizer.model" && path.extension() == ".model")) {
      return file;
    }
  }
  return kMainFiles.front();
}

// Whether tokenizer_config.json names the class, so that config.json is not asked for the model's.
bool names_class(const fs::path& folder) {
  try {
    return !read_tokenizer_config(folder).class_name.empty();
  } catch (const Error&) {
    return false;  // whoever reads the tokenizer gets the message
  }
}

}  // namespace

std::vector<std::string> tokenizer_file_names() {
  std::vector<std::string> names;
  for (const MainFile& file : kMainFiles) {
    names.emplace_back(file.name);
    if (!file.companion.empty()) {
      names.emplace_back(file.companion);
    }
  }
  for (const std::string_view name : kTokenizerConfigFiles) {
    if (name != "config.json") {
      names.emplace_back(name);
    }
  }
  return names;
}

std::vector<fs::path> tokenizer_files(const fs::path& folder) {
  std::vector<fs::path> files;
  const MainFile* main = find_main_file(folder);
  if (main == nullptr) {
    return files;
  }
  files.push_back(folder / main->name);
  if (main == &kMainFiles.front()) {
    return files;  // it says everything
  }
  if (!main->companion.empty()) {
    files.push_back(folder / main->companion);
  }
  for (const std::string_view name : kTokenizerConfigFiles) {
    if (has_document(folder / name) && (name != "config.json" || !names_class(folder))) {
      files.push_back(folder / name);
    }
  }
  return files;
}

TokenizerSource read_tokenizer_source(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored) && !is_gguf(path)) {
    return reader_of(path).read(path);
  }
  const auto documents = hold_documents(path);
  const MainFile* file = find_main_file(path);
  if (file == nullptr) {
    throw Error(ErrorCode::kBadFile, path.string(), "has no tokenizer: " + std::string(kTokenizerFilesText));
  }
  return file->read(path / file->name);
}

}  // namespace diffulex_edge
