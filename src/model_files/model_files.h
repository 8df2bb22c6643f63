// The documents that describe a model. A path is FOLDER/NAME, a file; or MODEL.gguf/NAME, which stands for what the
// GGUF file says in that document's place, as if somebody had written it beside the weights: "config.json",
// "tokenizer.json" and "tokenizer_config.json".
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

namespace diffulex_edge {

// Throws Error{kBadFile} for a link to nothing.
bool has_document(const std::filesystem::path& path);

// With Python's NaN and Infinity as the numbers that they are. Errors: as read_json_file; kBadFile and kUnsupported for
// keys of a GGUF file that are absent, broken, or have no place in the document. `max_bytes` bounds a file.
nlohmann::json read_document(const std::filesystem::path& path, std::size_t max_bytes);

// Its text: a file's bytes. Errors: as read_document, and kBadFile for a file that can't be read.
std::string document_text(const std::filesystem::path& path);

// Writes the document to the file `target`. Errors: as document_text, and kIo.
void copy_document(const std::filesystem::path& path, const std::filesystem::path& target);

// The file that holds the document: itself, or the GGUF file.
std::filesystem::path document_file(const std::filesystem::path& path);

// As long as the result lives, a GGUF file is parsed once for all that ask for its documents, and the text of each is
// made once. Nothing for a folder, or what is neither.
std::shared_ptr<const void> hold_documents(const std::filesystem::path& model);

}  // namespace diffulex_edge
