#include "tokenizer/gguf_vocabulary.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>
#include <variant>

#include "diffulex_edge/error.h"
#include "diffulex_edge/tokenizer.h"
#include "model_files/gguf_file.h"
#include "model_files/gguf_tokenizer.h"
#include "model_files/model_files.h"
#include "tokenizer/metaspace.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/tokenizer_source.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t kMaxDocumentBytes = std::size_t{32} << 20U;
constexpr float kScoreOfAdded = -1000.0F;  // of SentencePiece's, as llama.cpp's converter writes it
constexpr float kScoreOfNone = -10000.0F;  // the same, of ids without a token

[[noreturn]] void refuse(const TokenizerSource& source, const std::string& what) {
  throw Error(ErrorCode::kUnsupported, source.where, what + ", which llama.cpp has no tokenizer for",
              "write the weights alone: quantize a copy of the folder without its tokenizer's files");
}

struct TokenTable {
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;

  TokenTable(const TokenizerSource& source, std::int64_t vocab_size) : where_(source.where) {
    for (std::int64_t id = 0; id < vocab_size; ++id) {
      tokens.push_back("[PAD" + std::to_string(id) + "]");
    }
    types.assign(tokens.size(), static_cast<std::int32_t>(GgufTokenType::kUnused));
  }

  void set(const std::string& token, std::int64_t id, GgufTokenType type) {
    if (id < 0 || id >= static_cast<std::int64_t>(tokens.size())) {
      throw Error(ErrorCode::kBadFile, where_,
                  "has the token '" + token + "' with the id " + std::to_string(id) + ", and the model has " +
                      std::to_string(tokens.size()) + " tokens");
    }
    tokens[static_cast<std::size_t>(id)] = token;
    types[static_cast<std::size_t>(id)] = static_cast<std::int32_t>(type);
  }

 private:
  std::string where_;
};

// Those that the converter takes for special, whatever their files say: it is what llama.cpp's users see.
bool looks_special(std::string_view token) {
  constexpr std::array<std::string_view, 4> kNames = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"};
  const auto is_between = [&](std::string_view first, std::string_view last) {
    return token.starts_with(first) && token.ends_with(last);
  };
  return std::ranges::find(kNames, token) != kNames.end() || is_between("<|", "|>") ||
         is_between("<\xEF\xBD\x9C", "\xEF\xBD\x9C>") || is_between("<unused", ">");
}

void set_added(const TokenizerSource& source, TokenTable& table) {
  for (const AddedToken& token : source.added_tokens) {
    const bool is_special = token.special || looks_special(token.content);
    table.set(token.content, token.id, is_special ? GgufTokenType::kControl : GgufTokenType::kUserDefined);
  }
}

void set_normal(const Vocabulary& vocabulary, TokenTable& table) {
  vocabulary.for_each(
      [&](const std::string& token, std::uint32_t id) { table.set(token, id, GgufTokenType::kNormal); });
}

bool is_type(const json& step, std::string_view type) {
  const auto found = step.is_object() ? step.find("type") : step.end();
  return step.is_object() && found != step.end() && *found == type;
}

// --- Byte-level BPE.

bool is_byte_level(const TokenizerSource& source, const BpeSource& bpe) {
  return is_type(source.decoder, "ByteLevel") && !bpe.has_byte_fallback && bpe.continuing_prefix.empty() &&
         bpe.end_suffix.empty();
}

void add_byte_level(const TokenizerSource& source, const BpeSource& bpe, TokenTable& table, GgufHeader& header) {
  const auto name = gguf_pre_tokenizer_name(source.pre_tokenizer, bpe.ignores_merges);
  if (!name || !(source.normalizer.is_null() || is_type(source.normalizer, "NFC"))) {
    refuse(source, name ? "has the normalizer " + source.normalizer.dump()
                        : "has the pre-tokenizer " + source.pre_tokenizer.dump());
  }
  std::vector<std::string> merges;
  merges.reserve(bpe.merges.size());
  for (const auto& [left, right] : bpe.merges) {
    if (left.find(' ') != std::string::npos || right.find(' ') != std::string::npos) {
      refuse(source, "has merge number " + std::to_string(merges.size()) + " with a space in it");
    }
    merges.push_back(left);
    merges.back().append(" ").append(right);
  }
  set_normal(bpe.vocabulary, table);
  set_added(source, table);
  header.add_text("tokenizer.ggml.model", "gpt2");
  header.add_text("tokenizer.ggml.pre", *name);
  header.add_texts("tokenizer.ggml.tokens", table.tokens);
  header.add_integers("tokenizer.ggml.token_type", table.types);
  header.add_texts("tokenizer.ggml.merges", merges);
}

// --- SentencePiece's BPE.

// Whether a space comes before a text; nothing where its spaces are not SentencePiece's.
std::optional<bool> adds_space(const TokenizerSource& source) {
  const auto is_space_mark = [](const json& step) {
    return is_type(step, "Replace") && step.value("content", json()) == kSentencePieceSpace &&
           step.value("pattern", json()) == json{{"String", " "}};
  };
  if (is_type(source.pre_tokenizer, "Metaspace") && source.normalizer.is_null()) {
    const json split = source.pre_tokenizer.value("split", json(true));
    const json scheme = source.pre_tokenizer.value("prepend_scheme", json("always"));
    return split == false ? std::optional(scheme != "never") : std::nullopt;
  }
  if (!source.pre_tokenizer.is_null()) {
    return std::nullopt;
  }
  if (is_space_mark(source.normalizer)) {
    return false;
  }
  const json steps = is_type(source.normalizer, "Sequence") ? source.normalizer.value("normalizers", json()) : json();
  if (!steps.is_array() || steps.empty() || !is_space_mark(steps.back())) {
    return std::nullopt;
  }
  const bool has_prefix =
      steps.size() == 2 && is_type(steps[0], "Prepend") && steps[0].value("prepend", json()) == kSentencePieceSpace;
  return has_prefix || steps.size() == 1 ? std::optional(has_prefix) : std::nullopt;
}

// In how many ways two tokens are a third one together.
std::size_t count_pairs(const Vocabulary& vocabulary) {
  std::size_t count = 0;
  vocabulary.for_each([&](std::string_view token, std::uint32_t) {
    for (std::size_t cut = 1; cut < token.size(); ++cut) {
      count += vocabulary.id_of(token.substr(0, cut)) && vocabulary.id_of(token.substr(cut)) ? 1U : 0U;
    }
  });
  return count;
}

// What llama.cpp merges by: the order in which the list of merges makes each token. That is the list's own order only
// if it has all ways to put a token together, side by side, as SentencePiece's does.
std::map<std::string, float> scores_by_merges(const TokenizerSource& source, const BpeSource& bpe) {
  if (count_pairs(bpe.vocabulary) != bpe.merges.size()) {
    refuse(source, "has a list of merges that leaves out ways to put its tokens together");
  }
  std::map<std::string, float> scores;
  std::string last;
  for (const auto& [left, right] : bpe.merges) {
    std::string token = left + right;
    if (token != last && !scores.emplace(token, -static_cast<float>(scores.size())).second) {
      refuse(source, "merges '" + token + "' at two places of its list of merges");
    }
    last = std::move(token);
  }
  return scores;
}

// The pieces' own scores and kinds, where the folder has SentencePiece's model.
std::optional<SentencePieceModel> find_pieces(const fs::path& folder) {
  const fs::path path = folder / "tokenizer.model";
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored) || !has_document(path)) {
    return std::nullopt;
  }
  SentencePieceModel model = read_sentencepiece_model(path);
  return model.algorithm == SentencePieceModel::Algorithm::kBpe ? std::optional(std::move(model)) : std::nullopt;
}

// llama.cpp looks each byte up that no piece covers, and ends where it is not there.
bool has_all_bytes(const Vocabulary& vocabulary) {
  constexpr std::size_t kByteTokens = 256;
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  for (std::size_t byte = 0; byte < kByteTokens; ++byte) {
    if (!vocabulary.id_of(std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">")) {
      return false;
    }
  }
  return true;
}

bool is_byte_token(std::string_view token) {
  return token.size() == 6 && token.starts_with("<0x") && token.ends_with(">");
}

void set_pieces_by_merges(const TokenizerSource& source, const BpeSource& bpe, TokenTable& table,
                          std::vector<float>& scores) {
  const std::map<std::string, float> by_token = scores_by_merges(source, bpe);
  const float least = -static_cast<float>(by_token.size());
  bpe.vocabulary.for_each([&](const std::string& token, std::uint32_t id) {
    GgufTokenType type = is_byte_token(token) ? GgufTokenType::kByte : GgufTokenType::kNormal;
    if (bpe.unknown_token == token) {
      type = GgufTokenType::kUnknown;
    }
    table.set(token, id, type);
    const auto found = by_token.find(token);
    scores[id] = found == by_token.end() ? least : found->second;
  });
}

void add_pieces(const fs::path& folder, const TokenizerSource& source, const BpeSource& bpe, bool has_space,
                TokenTable& table, GgufHeader& header) {
  if (!has_all_bytes(bpe.vocabulary)) {
    refuse(source, "has no tokens of single bytes, <0x00> to <0xFF>");
  }
  std::vector<float> scores(table.tokens.size(), kScoreOfNone);
  if (const auto model = find_pieces(folder)) {
    std::int64_t id = 0;
    for (const SentencePieceModel::Piece& piece : model->pieces) {
      table.set(piece.text, id, static_cast<GgufTokenType>(piece.kind));
      scores[static_cast<std::size_t>(id++)] = piece.score;
    }
  } else {
    set_pieces_by_merges(source, bpe, table, scores);
  }
  for (const AddedToken& token : source.added_tokens) {
    const auto id = static_cast<std::size_t>(token.id);
    const auto unknown = static_cast<std::int32_t>(GgufTokenType::kUnknown);
    const bool is_unknown = id < table.types.size() && table.types[id] == unknown;
    const bool is_special = token.special || looks_special(token.content);
    table.set(token.content, token.id, is_special ? GgufTokenType::kControl : GgufTokenType::kUserDefined);
    table.types[id] = is_unknown ? unknown : table.types[id];
    scores[id] = is_unknown ? scores[id] : kScoreOfAdded;
  }
  header.add_text("tokenizer.ggml.model", "llama");
  header.add_text("tokenizer.ggml.pre", "default");
  header.add_texts("tokenizer.ggml.tokens", table.tokens);
  header.add_numbers("tokenizer.ggml.scores", scores);
  header.add_integers("tokenizer.ggml.token_type", table.types);
  header.add_boolean("tokenizer.ggml.add_space_prefix", has_space);
}

// --- Special tokens.

json document_in(const fs::path& folder, const char* name) {
  const fs::path path = folder / name;
  json document = has_document(path) ? read_document(path, kMaxDocumentBytes) : json::object();
  return document.is_object() ? document : json::object();
}

// As text, or an object with its text.
std::optional<std::int64_t> id_by_text(const TokenizerSource& source, const json& token) {
  const json text = token.is_object() ? token.value("content", json()) : token;
  for (const AddedToken& added : source.added_tokens) {
    if (text.is_string() && text == added.content) {
      return added.id;
    }
  }
  return std::nullopt;
}

using SpecialTokens = std::map<std::string, std::int64_t>;  // ids by their names in GGUF

// As llama.cpp's converter looks for them: the tokenizer's texts, then the configuration's ids. Of several ends, the
// second is the end of a turn.
SpecialTokens find_special_tokens(const fs::path& folder, const TokenizerSource& source, std::int64_t vocab_size) {
  constexpr std::array<std::pair<const char*, const char*>, 7> kNames = {{{"bos", "bos"},
                                                                          {"eos", "eos"},
                                                                          {"unk", "unknown"},
                                                                          {"sep", "seperator"},
                                                                          {"pad", "padding"},
                                                                          {"cls", "cls"},
                                                                          {"mask", "mask"}}};
  const json tokenizer = document_in(folder, "tokenizer_config.json");
  const json config = document_in(folder, "config.json");
  SpecialTokens found;
  const auto set = [&](const std::string& name, const json& id) {
    if (id.is_number_integer() && id.get<std::int64_t>() >= 0 && id.get<std::int64_t>() < vocab_size) {
      found.emplace(name, id.get<std::int64_t>());
    }
  };
  for (const auto& [name, gguf] : kNames) {
    if (const auto id = id_by_text(source, tokenizer.value(std::string(name) + "_token", json()))) {
      found.emplace(gguf, *id);
    }
    const json ids = config.value(std::string(name) + "_token_id", json());
    for (const json& id : ids.is_array() ? ids : json::array({ids})) {
      set(gguf, id);
      const auto first = found.find(gguf);
      if (std::string_view(name) == "eos" && first != found.end() && json(first->second) != id) {
        set("eot", id);
      }
    }
  }
  return found;
}

void add_special_tokens(const fs::path& folder, const TokenizerSource& source, std::int64_t vocab_size,
                        std::optional<std::int64_t> mask_token, GgufHeader& header) {
  SpecialTokens special = find_special_tokens(folder, source, vocab_size);
  if (mask_token) {
    special["mask"] = *mask_token;
  }
  if (source.begin_ids.size() > 1) {
    refuse(source, "puts " + std::to_string(source.begin_ids.size()) + " tokens before a text");
  }
  if (!source.begin_ids.empty()) {
    special["bos"] = source.begin_ids.front();
  }
  for (const auto& [name, id] : special) {
    header.add_integer("tokenizer.ggml." + name + "_token_id", static_cast<std::uint32_t>(id));
  }
  header.add_boolean("tokenizer.ggml.add_bos_token", !source.begin_ids.empty());
  header.add_boolean("tokenizer.ggml.add_eos_token", false);
}

// As another GGUF file has them, its chat template among them.
void copy_tokenizer_keys(const fs::path& path, std::optional<std::int64_t> mask_token, GgufHeader& header) {
  const std::shared_ptr<const GgufFile> file = open_gguf(path);
  const std::string mask = "tokenizer.ggml.mask_token_id";
  for (const std::string& key : file->keys()) {
    if (key.starts_with("tokenizer.") && !(mask_token && key == mask)) {
      header.add_value(key, file->value(key));
    }
  }
  if (mask_token) {
    header.add_integer(mask, static_cast<std::uint32_t>(*mask_token));
  }
  file->file().check();
}

}  // namespace

std::vector<std::string> add_gguf_tokenizer(const fs::path& folder, std::int64_t vocab_size,
                                            std::optional<std::int64_t> mask_token, GgufHeader& header) {
  if (is_gguf(folder)) {
    copy_tokenizer_keys(folder, mask_token, header);
    return {};
  }
  if (folder.empty() || tokenizer_files(folder).empty()) {
    header.add_text("tokenizer.ggml.model", "none");
    if (mask_token) {
      header.add_integer("tokenizer.ggml.mask_token_id", static_cast<std::uint32_t>(*mask_token));
    }
    return {"the model has no tokenizer: llama.cpp's programs that read text can't use the file"};
  }
  const TokenizerSource source = read_tokenizer_source(folder);
  const auto* bpe = std::get_if<BpeSource>(&source.model);
  if (bpe == nullptr) {
    refuse(source, std::holds_alternative<UnigramSource>(source.model) ? "is a Unigram model" : "is WordPiece");
  }
  TokenTable table(source, vocab_size);
  std::vector<std::string> warnings;
  if (is_byte_level(source, *bpe)) {
    add_byte_level(source, *bpe, table, header);
  } else if (const auto has_space = adds_space(source); has_space && bpe->has_byte_fallback) {
    add_pieces(folder, source, *bpe, *has_space, table, header);
    if (*has_space && source.pre_tokenizer.is_object() &&
        source.pre_tokenizer.value("prepend_scheme", json("always")) == "first") {
      warnings.emplace_back(
          "llama.cpp puts a space after each special token, where this tokenizer puts it before the first word only");
    }
  } else {
    refuse(source, "is BPE neither of bytes nor of SentencePiece's pieces");
  }
  add_special_tokens(folder, source, vocab_size, mask_token, header);
  return warnings;
}

}  // namespace diffulex_edge
