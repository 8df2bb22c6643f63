#include "runtime/token_data.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "core/mapped_file.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/error.h"
#include "runtime/json_lines.h"
#include "runtime/npy_file.h"

namespace diffulex_edge {
namespace {

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

// Collects sequences as the options want them.
class Collector {
 public:
  Collector(const std::filesystem::path& file, const Tokenizer* tokenizer, const TokenDataOptions& options)
      : file_(file.string()), tokenizer_(tokenizer), options_(options) {}

  // Nothing more is wanted.
  bool full() const {
    return options_.max_sequences > 0 && static_cast<std::int64_t>(sequences_.size()) >= options_.max_sequences;
  }

  void add_text(std::string_view text, const std::string& where) {
    if (tokenizer_ == nullptr) {
      throw Error(ErrorCode::kBadFile, file_,
                  "it holds text, and the model's folder has no tokenizer.json, and no other tokenizer, to tokenize it",
                  "put the model's tokenizer there, or give token ids");
    }
    if (text.find('\0') != std::string_view::npos) {
      throw Error(ErrorCode::kBadFile, where, "it is not text: it has a NUL byte");
    }
    std::vector<std::int64_t> ids;
    try {
      ids = tokenizer_->encode(text);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kInvalidArgument) {
        throw;
      }
      throw Error(ErrorCode::kBadFile, where, "it is not text in UTF-8");
    }
    check_ids(ids, where, "is the tokenizer that of the model?");
    stream_.insert(stream_.end(), ids.begin(), ids.end());
    const auto length = static_cast<std::size_t>(options_.length);
    std::size_t begin = 0;
    for (; stream_.size() - begin >= length && !full(); begin += length) {
      keep({stream_.begin() + static_cast<std::ptrdiff_t>(begin),
            stream_.begin() + static_cast<std::ptrdiff_t>(begin + length)});
    }
    stream_.erase(stream_.begin(), stream_.begin() + static_cast<std::ptrdiff_t>(begin));
  }

  void check_length(std::int64_t length, const std::string& where) const {
    if (length > options_.length) {
      throw Error(ErrorCode::kBadFile, where,
                  "the sequence has " + std::to_string(length) + " tokens, more than the length of " +
                      std::to_string(options_.length),
                  "raise the sequence length or cut the data into shorter rows");
    }
  }

  void add_ids(std::vector<std::int64_t> ids, const std::string& where) {
    check_length(static_cast<std::int64_t>(ids.size()), where);
    check_ids(ids, where, "is the data for another tokenizer?");
    if (!ids.empty() && !full()) {
      keep(std::move(ids));
    }
  }

  std::vector<std::vector<std::int64_t>> finish() {
    if (stream_.size() >= 2 && !full()) {
      keep(std::exchange(stream_, {}));
    }
    if (tokens_ < 2) {
      const std::size_t found = tokens_ + (sequences_.empty() ? stream_.size() : 0);
      throw Error(ErrorCode::kBadFile, file_,
                  "it has " + std::string(found == 0 ? "no tokens" : "only one token") + ", and at least 2 are needed");
    }
    return std::move(sequences_);
  }

 private:
  void keep(std::vector<std::int64_t> sequence) {
    tokens_ += sequence.size();
    sequences_.push_back(std::move(sequence));
  }

  void check_ids(const std::vector<std::int64_t>& ids, const std::string& where, const std::string& advice) const {
    check_token_ids(ids, options_.vocab_size, where, advice);
  }

  std::string file_;
  const Tokenizer* tokenizer_;
  TokenDataOptions options_;
  std::vector<std::int64_t> stream_;  // not yet a sequence
  std::vector<std::vector<std::int64_t>> sequences_;
  std::size_t tokens_ = 0;
};

void read_text(const std::filesystem::path& path, Collector& collector) {
  const MappedFile file(path);
  std::string stream;
  for_each_line(text_of(file), [&](std::string_view line, std::int64_t) {
    if (!is_blank(line)) {
      stream += (stream.empty() ? "" : "\n") + std::string(line);
    }
    return true;
  });
  file.check();
  collector.add_text(stream, path.string());
}

void read_json_lines(const std::filesystem::path& path, Collector& collector) {
  std::optional<bool> texts;
  for_each_json_line(path, [&](const nlohmann::json& object, const std::string& where) {
    const bool has_text = object.is_object() && object.contains("text");
    const bool has_ids = object.is_object() && object.contains("input_ids");
    if (!has_text && !has_ids) {
      throw Error(ErrorCode::kBadFile, where, "it is not a JSON object with \"text\" or \"input_ids\"");
    }
    if (texts.value_or(!has_ids) == has_ids) {
      throw Error(ErrorCode::kBadFile, where, "\"text\" and \"input_ids\" are mixed in one file");
    }
    texts = !has_ids;
    if (has_ids) {
      collector.add_ids(read_input_ids(object["input_ids"], where), where);
    } else if (object["text"].is_string()) {
      collector.add_text(object["text"].get_ref<const std::string&>(), where);
    } else {
      throw Error(ErrorCode::kBadFile, where, "\"text\" is not a string");
    }
    return !collector.full();
  });
}

void read_npy(const std::filesystem::path& path, Collector& collector) {
  const MappedFile file(path);
  const NpyMatrix matrix(file);
  collector.check_length(matrix.columns(), path.string());  // before a row of any size is read
  for (std::int64_t row = 0; matrix.columns() > 0 && row < matrix.rows() && !collector.full(); ++row) {
    collector.add_ids(matrix.row(row), path.string() + ": row " + std::to_string(row));
  }
  file.check();
}

void read_safetensors(const std::filesystem::path& path, Collector& collector) {
  const Checkpoint checkpoint(path);
  bool found = false;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (!name.starts_with("input_ids_")) {
      continue;
    }
    found = true;
    if (tensor.dtype != DType::kI64 || tensor.shape.size() != 2) {
      throw Error(ErrorCode::kBadFile, tensor.where(), "it is not an int64 tensor [sequences, length]");
    }
    collector.check_length(tensor.shape[1], tensor.where());
    const auto columns = static_cast<std::size_t>(tensor.shape[1]);
    for (std::int64_t row = 0; columns > 0 && row < tensor.shape[0] && !collector.full(); ++row) {
      std::vector<std::int64_t> ids(columns);
      const std::size_t bytes = columns * sizeof(std::int64_t);
      std::memcpy(ids.data(), tensor.bytes.data() + static_cast<std::size_t>(row) * bytes, bytes);
      collector.add_ids(std::move(ids), tensor.where() + ", row " + std::to_string(row));
    }
    tensor.file->check();
  }
  if (!found) {
    throw Error(ErrorCode::kBadFile, path.string(), "it has no tensor whose name begins with input_ids_");
  }
}

}  // namespace

std::vector<std::vector<std::int64_t>> read_token_sequences(const std::filesystem::path& file,
                                                            const Tokenizer* tokenizer,
                                                            const TokenDataOptions& options) {
  if (options.length < 2 || options.max_sequences < 0) {
    throw Error(ErrorCode::kInvalidArgument, "token data",
                "a length of " + std::to_string(options.length) + " and at most " +
                    std::to_string(options.max_sequences) + " sequences make no sense",
                "the length is at least 2");
  }
  std::string extension = file.extension().string();
  std::ranges::transform(extension, extension.begin(),
                         [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  Collector collector(file, tokenizer, options);
  if (extension == ".txt") {
    read_text(file, collector);
  } else if (extension == ".jsonl") {
    read_json_lines(file, collector);
  } else if (extension == ".npy") {
    read_npy(file, collector);
  } else if (extension == ".safetensors") {
    read_safetensors(file, collector);
  } else {
    throw Error(ErrorCode::kInvalidArgument, file.string(),
                "the extension '" + extension + "' is not one of .txt, .jsonl, .npy and .safetensors");
  }
  return collector.finish();
}

}  // namespace diffulex_edge
