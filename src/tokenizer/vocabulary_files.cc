#include "tokenizer/vocabulary_files.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"
#include "core/mapped_file.h"
#include "diffulex_edge/error.h"
#include "tokenizer/tokenizer_config.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

using TokenNames = std::pair<std::string_view, std::string_view>;

constexpr std::array<TokenNames, 3> kQwen2Tokens = {
    {{"eos_token", "<|endoftext|>"}, {"unk_token", "<|endoftext|>"}, {"pad_token", "<|endoftext|>"}}};
constexpr std::array<TokenNames, 3> kGpt2Tokens = {
    {{"bos_token", "<|endoftext|>"}, {"eos_token", "<|endoftext|>"}, {"unk_token", "<|endoftext|>"}}};
constexpr std::array<TokenNames, 5> kBertTokens = {{{"unk_token", "[UNK]"},
                                                    {"sep_token", "[SEP]"},
                                                    {"pad_token", "[PAD]"},
                                                    {"cls_token", "[CLS]"},
                                                    {"mask_token", "[MASK]"}}};

// Qwen2's: contractions, words, single digits, symbols, line ends, spaces.
constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::string text_of(const fs::path& path) {
  const MappedFile file(path);
  if (file.bytes().size() > kMaxTokenizerBytes) {
    throw Error(ErrorCode::kBadFile, path.string(),
                "has " + std::to_string(file.bytes().size()) + " bytes; a vocabulary has at most " +
                    std::to_string(kMaxTokenizerBytes));
  }
  std::string text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  file.check();
  if (const auto position = invalid_utf8(text)) {
    throw Error(ErrorCode::kBadFile, path.string(), "is not valid UTF-8 at byte " + std::to_string(*position));
  }
  return text;
}

// Calls `visit(line)` for each, without its end.
template <typename Visit>
void for_each_line(std::string_view text, Visit visit) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) {
      line.remove_suffix(1);
    }
    visit(line);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

std::vector<std::pair<std::string, std::string>> read_merges(const fs::path& path) {
  const std::string text = text_of(path);
  std::vector<std::pair<std::string, std::string>> merges;
  for_each_line(text, [&](std::string_view line) {
    if (line.empty() || line.starts_with("#version")) {
      return;
    }
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
      throw Error(ErrorCode::kBadFile, path.string(),
                  "merge number " + std::to_string(merges.size()) + " is not a pair of tokens");
    }
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  });
  return merges;
}

// The class, or that of the model's type where none is said.
std::string class_of(const TokenizerConfig& config) {
  constexpr std::array<TokenNames, 10> kClasses = {{{"Dream", "DreamTokenizer"},
                                                    {"dream", "DreamTokenizer"},
                                                    {"qwen2", "Qwen2Tokenizer"},
                                                    {"qwen2_moe", "Qwen2Tokenizer"},
                                                    {"qwen3", "Qwen2Tokenizer"},
                                                    {"qwen3_moe", "Qwen2Tokenizer"},
                                                    {"sdar", "Qwen2Tokenizer"},
                                                    {"sdar_moe", "Qwen2Tokenizer"},
                                                    {"gpt2", "GPT2Tokenizer"},
                                                    {"bert", "BertTokenizer"}}};
  if (!config.class_name.empty()) {
    return config.class_name;
  }
  for (const auto& [type, name] : kClasses) {
    if (type == config.model_type) {
      return std::string(name);
    }
  }
  throw Error(ErrorCode::kUnsupported, config.where, "no file says which 'tokenizer_class' the vocabulary is for",
              kTokenizerAdvice);
}

[[noreturn]] void refuse_class(const TokenizerConfig& config, const std::string& name, const std::string& known) {
  throw Error(ErrorCode::kUnsupported, config.where,
              "the 'tokenizer_class' '" + name + "' is not supported without a tokenizer.json; supported are " + known,
              kTokenizerAdvice);
}

nlohmann::json qwen2_pre_tokenizer(bool adds_prefix_space) {
  return {{"type", "Sequence"},
          {"pretokenizers",
           {{{"type", "Split"}, {"pattern", {{"Regex", kQwen2Pattern}}}, {"behavior", "Isolated"}, {"invert", false}},
            {{"type", "ByteLevel"}, {"add_prefix_space", adds_prefix_space}, {"use_regex", false}}}}};
}

}  // namespace

TokenizerSource read_vocabulary_and_merges(const fs::path& vocab_json) {
  const fs::path folder = vocab_json.parent_path();
  const TokenizerConfig config = read_tokenizer_config(folder);
  const std::string name = class_of(config);
  const bool is_qwen2 = name == "Qwen2Tokenizer" || name == "DreamTokenizer";
  if (!is_qwen2 && name != "GPT2Tokenizer") {
    refuse_class(config, name, "Qwen2Tokenizer, DreamTokenizer and GPT2Tokenizer");
  }
  const bool adds_prefix_space = config.flag("add_prefix_space", false);
  TokenizerSource source{.where = vocab_json.string()};
  BpeSource bpe;
  nlohmann::json document;  // with the tokens where tokenizer.json has them
  document["vocab"] = read_json_file(vocab_json, kMaxTokenizerBytes);
  bpe.vocabulary = read_vocabulary(Fields(document, source.where), "vocab");
  bpe.merges = read_merges(folder / "merges.txt");
  if (is_qwen2) {
    source.normalizer = {{"type", "NFC"}};
    source.pre_tokenizer = qwen2_pre_tokenizer(adds_prefix_space);
  } else {
    source.pre_tokenizer = {{"type", "ByteLevel"}, {"add_prefix_space", adds_prefix_space}, {"use_regex", true}};
  }
  source.decoder = {{"type", "ByteLevel"}};
  const DefaultTokens defaults = is_qwen2 ? DefaultTokens(kQwen2Tokens) : DefaultTokens(kGpt2Tokens);
  source.added_tokens = all_added_tokens(config, defaults, bpe.vocabulary);
  source.begin_ids = begin_ids(config, defaults, source.added_tokens);
  source.model = std::move(bpe);
  return source;
}

TokenizerSource read_word_piece_vocabulary(const fs::path& vocab_txt) {
  const TokenizerConfig config = read_tokenizer_config(vocab_txt.parent_path());
  const std::string name = class_of(config);
  if (name != "BertTokenizer") {
    refuse_class(config, name, "BertTokenizer");
  }
  TokenizerSource source{.where = vocab_txt.string()};
  WordPieceSource words;
  const std::string text = text_of(vocab_txt);
  std::int64_t id = 0;
  for_each_line(text, [&](std::string_view line) {
    while (!line.empty() && is_white_space(character_at(line, previous_character(line, line.size())))) {
      line = line.substr(0, previous_character(line, line.size()));
    }
    words.vocabulary.add(std::string(line), id++);
  });
  words.unknown_token = special_token(config, kBertTokens, "unk_token").value_or("[UNK]");
  nlohmann::json normalizer = {{"type", "BertNormalizer"},
                               {"clean_text", true},
                               {"handle_chinese_chars", config.flag("tokenize_chinese_chars", true)},
                               {"lowercase", config.flag("do_lower_case", true)}};
  if (config.flags.contains("strip_accents")) {
    normalizer["strip_accents"] = config.flag("strip_accents", true);
  }
  source.normalizer = std::move(normalizer);
  source.pre_tokenizer = {{"type", "BertPreTokenizer"}};
  source.decoder = {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}};
  source.added_tokens = all_added_tokens(config, kBertTokens, words.vocabulary);
  const std::optional<std::string> first = special_token(config, kBertTokens, "cls_token");
  for (const AddedToken& token : source.added_tokens) {
    if (first == token.content) {
      source.begin_ids = {token.id};
    }
  }
  source.model = std::move(words);
  return source;
}

}  // namespace diffulex_edge
