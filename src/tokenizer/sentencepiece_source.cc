// The tokenizers that Hugging Face's transformers makes of SentencePiece models.
#include <algorithm>
#include <array>
#include <numeric>
#include <string_view>
#include <utility>

#include "diffulex_edge/error.h"
#include "tokenizer/metaspace.h"
#include "tokenizer/sentencepiece_model.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

using Piece = SentencePieceModel::Piece;
using Kind = SentencePieceModel::Kind;
using Merges = std::vector<std::pair<std::string, std::string>>;

constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kLlamaTokens = {
    {{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"unk_token", "<unk>"}}};

Vocabulary vocabulary_of(const SentencePieceModel& model) {
  Vocabulary vocabulary;
  vocabulary.reserve(model.pieces.size());
  std::int64_t id = 0;
  for (const Piece& piece : model.pieces) {
    vocabulary.add(piece.text, id++);
  }
  return vocabulary;
}

// SentencePiece's BPE has no list of merges: any two pieces that are a piece together may be put together. `ids` is the
// order of what they become.
Merges merges_of(const SentencePieceModel& model, const Vocabulary& pieces, const std::vector<std::size_t>& ids) {
  Merges merges;
  for (const std::size_t id : ids) {
    const std::string_view text = model.pieces[id].text;
    for (std::size_t i = character_length(text[0]); i < text.size(); i += character_length(text[i])) {
      if (pieces.id_of(text.substr(0, i)) && pieces.id_of(text.substr(i))) {
        merges.emplace_back(text.substr(0, i), text.substr(i));
      }
    }
  }
  return merges;
}

std::vector<std::size_t> ids_of(const SentencePieceModel& model) {
  std::vector<std::size_t> ids(model.pieces.size());
  std::iota(ids.begin(), ids.end(), std::size_t{0});
  return ids;
}

// Only normal pieces are put together, those of the highest score first.
Merges merges_by_score(const SentencePieceModel& model) {
  const auto is_special = [&](std::size_t id) { return model.pieces[id].kind != Kind::kNormal; };
  std::vector<std::size_t> ids = ids_of(model);
  std::erase_if(ids, is_special);
  std::ranges::sort(ids, {}, [&](std::size_t id) { return std::pair(-model.pieces[id].score, id); });
  Vocabulary normal;
  for (const std::size_t id : ids) {
    normal.add(model.pieces[id].text, static_cast<std::int64_t>(id));
  }
  return merges_of(model, normal, ids);
}

nlohmann::json decoder_json(bool has_byte_fallback, bool strips_space) {
  nlohmann::json decoders = nlohmann::json::array();
  decoders.push_back({{"type", "Replace"}, {"pattern", {{"String", kSentencePieceSpace}}}, {"content", " "}});
  if (has_byte_fallback) {
    decoders.push_back({{"type", "ByteFallback"}});
  }
  decoders.push_back({{"type", "Fuse"}});
  if (strips_space) {
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return {{"type", "Sequence"}, {"decoders", std::move(decoders)}};
}

nlohmann::json metaspace_json(const char* prepend_scheme) {
  return {{"type", "Metaspace"},
          {"replacement", kSentencePieceSpace},
          {"prepend_scheme", prepend_scheme},
          {"split", false}};
}

nlohmann::json replace_json(const char* kind, const char* pattern, const char* content) {
  return {{"type", "Replace"}, {"pattern", {{kind, pattern}}}, {"content", content}};
}

// Pieces that are found in the text before anything else cuts it.
void add_found_pieces(const SentencePieceModel& model, bool with_user_defined, TokenizerConfig& config) {
  for (const Piece& piece : model.pieces) {
    const bool is_user_defined = piece.kind == Kind::kUserDefined;
    if (piece.kind == Kind::kControl || (is_user_defined && with_user_defined)) {
      config.extra_special_tokens.push_back({.content = piece.text, .special = !is_user_defined});
    }
  }
}

// transformers' LlamaTokenizer: no normalization at all, whatever the model says.
TokenizerSource llama_source(const SentencePieceModel& model, TokenizerConfig config, const std::string& where) {
  if (model.algorithm != SentencePieceModel::Algorithm::kBpe) {
    throw Error(ErrorCode::kUnsupported, where, "is a Unigram model, and the class LlamaTokenizer needs BPE",
                "take the 'tokenizer_class' out of tokenizer_config.json, so that the model's own settings count");
  }
  TokenizerSource source{.where = where};
  BpeSource bpe{.vocabulary = vocabulary_of(model), .fuses_unknown = true, .has_byte_fallback = true};
  bpe.merges = merges_of(model, bpe.vocabulary, ids_of(model));
  const bool has_prefix = config.flag("add_prefix_space", true);
  const char* scheme = config.flag("legacy", false) ? "always" : "first";
  source.pre_tokenizer = metaspace_json(has_prefix ? scheme : "never");
  source.decoder = decoder_json(true, has_prefix);
  add_found_pieces(model, true, config);
  source.added_tokens = all_added_tokens(config, kLlamaTokens, bpe.vocabulary);
  source.begin_ids = begin_ids(config, kLlamaTokens, source.added_tokens);
  source.model = std::move(bpe);
  return source;
}

// In SentencePiece's order. Behind the last space of a run, nothing is looked for: that keeps it linear.
nlohmann::json general_normalizer(const SentencePieceModel& model, bool is_legacy) {
  nlohmann::json steps = nlohmann::json::array();
  if (!model.character_map.empty()) {
    const std::vector<std::uint8_t> bytes(model.character_map.begin(), model.character_map.end());
    steps.push_back({{"type", "Precompiled"}, {"precompiled_charsmap", nlohmann::json::binary(bytes)}});
  }
  if (model.removes_extra_spaces) {
    steps.push_back(replace_json("Regex", R"(\A +|(?<! ) +\z)", ""));
    steps.push_back(replace_json("Regex", " {2,}", " "));
  }
  if (model.escapes_spaces) {
    steps.push_back(replace_json("String", " ", kSentencePieceSpace));
  }
  if (model.adds_dummy_prefix && is_legacy) {
    // SentencePiece adds its prefix where there is a space already, too.
    steps.push_back(replace_json("Regex", "\\A\xE2\x96\x81", "\xE2\x96\x81\xE2\x96\x81"));
  }
  return {{"type", "Sequence"}, {"normalizers", std::move(steps)}};
}

std::string escaped(std::string_view text) {
  constexpr std::string_view kSpecial = R"(\^$.|?*+()[]{}-#&~ )";
  std::string pattern;
  for (const char letter : text) {
    if (kSpecial.find(letter) != std::string_view::npos) {
      pattern += '\\';
    }
    pattern += letter;
  }
  return pattern;
}

// User-defined pieces stay whole: the longest first.
std::string user_defined_pattern(const SentencePieceModel& model) {
  std::vector<std::string> pieces;
  for (const Piece& piece : model.pieces) {
    if (piece.kind == Kind::kUserDefined) {
      pieces.push_back(piece.text);
    }
  }
  std::ranges::sort(pieces, std::greater<>(), count_characters);
  std::string pattern;
  for (const std::string& piece : pieces) {
    pattern += (pattern.empty() ? "" : "|") + escaped(piece);
  }
  return pattern;
}

nlohmann::json general_pre_tokenizer(const SentencePieceModel& model, bool is_legacy, const std::string& pattern) {
  nlohmann::json steps = nlohmann::json::array();
  if (model.adds_dummy_prefix) {
    steps.push_back(metaspace_json(is_legacy ? "always" : "first"));
  }
  if (!pattern.empty()) {
    steps.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

UnigramSource unigram_of(const SentencePieceModel& model) {
  UnigramSource source{.has_byte_fallback = model.has_byte_fallback};
  for (const Piece& piece : model.pieces) {
    source.tokens.push_back({.text = piece.text, .score = piece.score});
  }
  if (model.unknown_id >= 0) {
    source.unknown_id = static_cast<std::size_t>(model.unknown_id);
  }
  return source;
}

// As SentencePiece itself encodes.
TokenizerSource general_source(const SentencePieceModel& model, TokenizerConfig config, const std::string& where) {
  TokenizerSource source{.where = where};
  const Vocabulary vocabulary = vocabulary_of(model);
  const bool is_legacy = config.flag("legacy", true);
  const std::string user_defined = user_defined_pattern(model);
  source.normalizer = general_normalizer(model, is_legacy);
  source.pre_tokenizer = general_pre_tokenizer(model, is_legacy, user_defined);
  source.decoder = decoder_json(model.has_byte_fallback, model.adds_dummy_prefix);
  for (AddedToken& token : config.added_tokens) {
    token.normalized = token.normalized && !model.adds_dummy_prefix;
  }
  add_found_pieces(model, false, config);
  std::vector<std::pair<std::string_view, std::string_view>> defaults;
  if (model.begin_id >= 0) {
    defaults.emplace_back("bos_token", model.begin_piece);
  }
  if (model.end_id >= 0) {
    defaults.emplace_back("eos_token", model.end_piece);
  }
  if (model.unknown_id >= 0) {
    defaults.emplace_back("unk_token", model.unknown_piece);
  }
  source.added_tokens = all_added_tokens(config, defaults, vocabulary);
  source.begin_ids = begin_ids(config, defaults, source.added_tokens);
  if (model.algorithm == SentencePieceModel::Algorithm::kUnigram) {
    source.model = unigram_of(model);
    return source;
  }
  source.model = BpeSource{.vocabulary = vocabulary_of(model),
                           .merges = merges_by_score(model),
                           .unknown_token = model.unknown_piece,
                           .fuses_unknown = true,
                           .has_byte_fallback = model.has_byte_fallback,
                           .ignores_merges = !user_defined.empty()};
  return source;
}

}  // namespace

TokenizerSource sentencepiece_source(const SentencePieceModel& model, const TokenizerConfig& config,
                                     const std::string& where) {
  const std::string& name = config.class_name;
  if (name == "LlamaTokenizer") {
    return llama_source(model, config, where);
  }
  if (name.empty() || name == "PreTrainedTokenizer" || name == "TokenizersBackend") {
    return general_source(model, config, where);
  }
  throw Error(ErrorCode::kUnsupported, config.where,
              "the 'tokenizer_class' '" + name +
                  "' is not supported without a tokenizer.json; supported are "
                  "LlamaTokenizer and PreTrainedTokenizerFast",
              kTokenizerAdvice);
}

}  // namespace diffulex_edge
