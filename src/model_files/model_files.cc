#include "model_files/model_files.h"

#include <map>
#include <mutex>
#include <system_error>

#include "core/json.h"
#include "core/links.h"
#include "core/mapped_file.h"
#include "core/output_file.h"
#include "diffulex_edge/error.h"
#include "model_files/gguf_config.h"
#include "model_files/gguf_file.h"
#include "model_files/gguf_tokenizer.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

// The texts of documents that were made for a file.
struct HeldDocuments {
  std::shared_ptr<const GgufFile> file;
  std::mutex mutex;
  std::map<std::string, std::string> texts;  // by name
};

// By the file that they are of; none is kept alive.
struct HeldFiles {
  std::mutex mutex;
  std::map<const GgufFile*, std::weak_ptr<HeldDocuments>> entries;
};

HeldFiles& held_files() {
  static HeldFiles files;
  return files;
}

std::shared_ptr<HeldDocuments> find_held(const std::shared_ptr<const GgufFile>& file) {
  const std::scoped_lock lock(held_files().mutex);
  const auto found = held_files().entries.find(file.get());
  return found == held_files().entries.end() ? nullptr : found->second.lock();
}

bool is_in_gguf(const fs::path& path) { return is_gguf(path.parent_path()); }

nlohmann::json document_in(const GgufFile& file, const std::string& name) {
  nlohmann::json document;
  if (name == "config.json") {
    document = gguf_config(file);
  } else if (name == "tokenizer.json") {
    document = gguf_tokenizer(file);
  } else if (name == "tokenizer_config.json") {
    document = gguf_tokenizer_config(file);
  } else {
    throw Error(ErrorCode::kBadFile, file.path().string(), "holds nothing that stands for " + name);
  }
  file.file().check();
  return document;
}

std::string text_in_gguf(const std::shared_ptr<const GgufFile>& file, const std::string& name) {
  const auto make = [&] { return document_in(*file, name).dump(2) + "\n"; };
  const std::shared_ptr<HeldDocuments> held = find_held(file);
  if (held == nullptr) {
    return make();
  }
  const std::scoped_lock lock(held->mutex);
  const auto found = held->texts.find(name);
  return found != held->texts.end() ? found->second : held->texts.emplace(name, make()).first->second;
}

}  // namespace

std::shared_ptr<const void> hold_documents(const fs::path& model) {
  if (!is_gguf(model)) {
    return nullptr;
  }
  auto file = open_gguf(model);
  std::shared_ptr<HeldDocuments> held = find_held(file);
  if (held == nullptr) {
    held = std::make_shared<HeldDocuments>();
    held->file = file;
    const std::scoped_lock lock(held_files().mutex);
    std::erase_if(held_files().entries, [](const auto& entry) { return entry.second.expired(); });
    held_files().entries[file.get()] = held;
  }
  return held;
}

bool has_document(const fs::path& path) {
  if (!is_in_gguf(path)) {
    return is_present(path);
  }
  const std::string name = path.filename().string();
  const bool is_tokenizers = name == "tokenizer.json" || name == "tokenizer_config.json";
  return name == "config.json" || (is_tokenizers && has_gguf_tokenizer(*open_gguf(path.parent_path())));
}

nlohmann::json read_document(const fs::path& path, std::size_t max_bytes) {
  return is_in_gguf(path) ? document_in(*open_gguf(path.parent_path()), path.filename().string())
                          : read_json_file(path, max_bytes, JsonNumbers::kPython);
}

std::string document_text(const fs::path& path) {
  if (is_in_gguf(path)) {
    return text_in_gguf(open_gguf(path.parent_path()), path.filename().string());
  }
  const MappedFile file(path);
  std::string text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  file.check();
  return text;
}

void copy_document(const fs::path& path, const fs::path& target) {
  if (is_in_gguf(path)) {
    write_file(target, document_text(path));
    return;
  }
  std::error_code error;
  fs::copy_file(path, target, error);
  if (error) {
    throw Error(ErrorCode::kIo, target.string(), "could not be written: " + error.message());
  }
}

fs::path document_file(const fs::path& path) { return is_in_gguf(path) ? path.parent_path() : path; }

}  // namespace diffulex_edge
