#include "model_files/model_files.h"

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

}  // namespace

bool has_document(const fs::path& path) {
  if (!is_in_gguf(path)) {
    return is_present(path);
  }
  const std::string name = path.filename().string();
  const bool is_tokenizers = name == "tokenizer.json" || name == "tokenizer_config.json";
  return name == "config.json" || (is_tokenizers && has_gguf_tokenizer(GgufFile(path.parent_path())));
}

nlohmann::json read_document(const fs::path& path, std::size_t max_bytes) {
  return is_in_gguf(path) ? document_in(GgufFile(path.parent_path()), path.filename().string())
                          : read_json_file(path, max_bytes, JsonNumbers::kPython);
}

std::string document_text(const fs::path& path) {
  if (is_in_gguf(path)) {
    return document_in(GgufFile(path.parent_path()), path.filename().string()).dump(2) + "\n";
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
