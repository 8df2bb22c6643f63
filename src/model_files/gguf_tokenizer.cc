#include "model_files/gguf_tokenizer.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

using nlohmann::json;

constexpr std::string_view kTokens = "tokenizer.ggml.tokens";

constexpr std::int64_t number_of(GgufTokenType type) { return static_cast<std::int64_t>(type); }

[[noreturn]] void refuse_tokenizer(const GgufFile& file, const std::string& what) {
  throw Error(ErrorCode::kUnsupported, file.path().string(), what,
              "give token ids, or take the checkpoint that the file was made from");
}

struct Vocabulary {
  std::vector<std::string_view> tokens;
  std::vector<std::int64_t> types;

  bool has_type(std::size_t id, GgufTokenType type) const { return types[id] == number_of(type); }
  bool is_added(std::size_t id) const {
    return has_type(id, GgufTokenType::kControl) || has_type(id, GgufTokenType::kUserDefined);
  }
};

Vocabulary read_vocabulary(const GgufFile& file) {
  Vocabulary vocabulary{.tokens = file.texts(kTokens), .types = file.integers("tokenizer.ggml.token_type")};
  if (vocabulary.types.empty()) {
    vocabulary.types.assign(vocabulary.tokens.size(), number_of(GgufTokenType::kNormal));
  }
  if (vocabulary.types.size() != vocabulary.tokens.size()) {
    file.fail("tokenizer.ggml.token_type", "has " + std::to_string(vocabulary.types.size()) + " elements for " +
                                               std::to_string(vocabulary.tokens.size()) + " tokens");
  }
  return vocabulary;
}

std::optional<std::string> special_token(const GgufFile& file, const Vocabulary& vocabulary, const std::string& name) {
  const std::string key = "tokenizer.ggml." + name + "_token_id";
  const auto id = file.integer(key);
  if (!id) {
    return std::nullopt;
  }
  if (*id < 0 || *id >= static_cast<std::int64_t>(vocabulary.tokens.size())) {
    file.fail(key, "is " + std::to_string(*id) + ", the vocabulary has " + std::to_string(vocabulary.tokens.size()) +
                       " tokens");
  }
  return std::string(vocabulary.tokens[static_cast<std::size_t>(*id)]);
}

json added_tokens(const Vocabulary& vocabulary) {
  json added = json::array();
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (vocabulary.is_added(id)) {
      added.push_back({{"id", id},
                       {"content", vocabulary.tokens[id]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", vocabulary.has_type(id, GgufTokenType::kControl)}});
    }
  }
  return added;
}

// Ids by token. What only fills up the embedding is left out.
json ids_by_token(const GgufFile& file, const Vocabulary& vocabulary) {
  json ids = json::object();
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (vocabulary.has_type(id, GgufTokenType::kUnused)) {
      continue;
    }
    const auto [position, inserted] = ids.emplace(vocabulary.tokens[id], id);
    if (!inserted) {
      file.fail(kTokens, "has the token '" + std::string(vocabulary.tokens[id]) + "' twice");
    }
  }
  return ids;
}

json bpe_model(json vocabulary, json merges) {
  return {{"type", "BPE"},         {"vocab", std::move(vocabulary)}, {"merges", std::move(merges)},
          {"dropout", nullptr},    {"unk_token", nullptr},           {"continuing_subword_prefix", nullptr},
          {"fuse_unk", false},     {"end_of_word_suffix", nullptr},  {"byte_fallback", false},
          {"ignore_merges", false}};
}

json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

json sequence_of(std::string_view member, json steps) { return {{"type", "Sequence"}, {member, std::move(steps)}}; }

// A pre-tokenizer that llama.cpp knows by name.
struct PreTokenizerRule {
  std::string_view pattern;  // cut by this; empty: by ByteLevel's own
  bool digits_apart = false;
  bool composes = false;  // text is normalized to NFC
  bool ignores_merges = false;
  bool begins_with_bos = false;
};

constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// Of the vocabulary that LLaDA shares with Ling.
constexpr std::string_view kLingPattern =
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)";

constexpr PreTokenizerRule kLlama3{.pattern = kLlama3Pattern, .ignores_merges = true, .begins_with_bos = true};
constexpr PreTokenizerRule kQwen2{.pattern = kQwen2Pattern, .composes = true};
constexpr PreTokenizerRule kSmaug{.pattern = kLlama3Pattern};
constexpr PreTokenizerRule kLing{.pattern = kLingPattern};
constexpr PreTokenizerRule kGpt2{};
constexpr PreTokenizerRule kSmolLm{.pattern = {}, .digits_apart = true};

constexpr std::array kPreTokenizers = {
    std::pair<std::string_view, PreTokenizerRule>{"llama-bpe", kLlama3},
    std::pair<std::string_view, PreTokenizerRule>{"llama3", kLlama3},
    std::pair<std::string_view, PreTokenizerRule>{"llama-v3", kLlama3},
    std::pair<std::string_view, PreTokenizerRule>{"qwen2", kQwen2},
    std::pair<std::string_view, PreTokenizerRule>{"deepseek-r1-qwen", kQwen2},
    std::pair<std::string_view, PreTokenizerRule>{"smaug-bpe", kSmaug},
    std::pair<std::string_view, PreTokenizerRule>{"bailingmoe", kLing},
    std::pair<std::string_view, PreTokenizerRule>{"bailingmoe2", kLing},
    std::pair<std::string_view, PreTokenizerRule>{"llada-moe", kLing},
    std::pair<std::string_view, PreTokenizerRule>{"gpt-2", kGpt2},
    std::pair<std::string_view, PreTokenizerRule>{"smollm", kSmolLm},
};

PreTokenizerRule pre_tokenizer_rule(const GgufFile& file) {
  const std::string name = file.text("tokenizer.ggml.pre").value_or("");
  const auto* found = std::ranges::find(kPreTokenizers, name, &std::pair<std::string_view, PreTokenizerRule>::first);
  if (found == kPreTokenizers.end()) {
    refuse_tokenizer(file, "has a tokenizer with the pre-tokenizer \"" + name + "\", whose rules are not known here");
  }
  return found->second;
}

json pre_tokenizer_of(const PreTokenizerRule& rule) {
  if (!rule.pattern.empty()) {
    return sequence_of(
        "pretokenizers",
        {{{"type", "Split"}, {"pattern", {{"Regex", rule.pattern}}}, {"behavior", "Isolated"}, {"invert", false}},
         byte_level(false)});
  }
  if (rule.digits_apart) {
    return sequence_of("pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, byte_level(true)});
  }
  return byte_level(true);
}

// The steps with what changes the pieces, and nothing else.
json essential_steps(const json& pre_tokenizer) {
  json steps = json::array();
  if (!pre_tokenizer.is_object()) {
    return steps;
  }
  const auto type = pre_tokenizer.find("type");
  const auto members = pre_tokenizer.find("pretokenizers");
  if (type != pre_tokenizer.end() && *type == "Sequence" && members != pre_tokenizer.end()) {
    for (const json& step : *members) {
      for (json& inner : essential_steps(step)) {
        steps.push_back(std::move(inner));
      }
    }
    return steps;
  }
  json step = pre_tokenizer;
  step.erase("trim_offsets");
  for (const auto& [key, usual] : {std::pair{"use_regex", true}, std::pair{"invert", false}}) {
    if (const auto member = step.find(key); member != step.end() && *member == usual) {
      step.erase(key);
    }
  }
  steps.push_back(std::move(step));
  return steps;
}

// What puts the beginning-of-sequence token before a text.
json post_processor(const GgufFile& file, const Vocabulary& vocabulary, bool fallback) {
  const std::optional<std::string> bos = special_token(file, vocabulary, "bos");
  if (!bos || !file.boolean("tokenizer.ggml.add_bos_token").value_or(fallback)) {
    return nullptr;
  }
  const json first = {{"SpecialToken", {{"id", *bos}, {"type_id", 0}}}};
  const json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json second = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  const json ids = json::array({static_cast<std::uint64_t>(file.integer("tokenizer.ggml.bos_token_id").value_or(0))});
  return {{"type", "TemplateProcessing"},
          {"single", json::array({first, text})},
          {"pair", json::array({first, text, second})},
          {"special_tokens", {{*bos, {{"id", *bos}, {"ids", ids}, {"tokens", json::array({*bos})}}}}}};
}

json document_of(const Vocabulary& vocabulary) {
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added_tokens(vocabulary)},
          {"normalizer", nullptr}};
}

json byte_level_tokenizer(const GgufFile& file, const Vocabulary& vocabulary) {
  const PreTokenizerRule rule = pre_tokenizer_rule(file);
  json merges = json::array();
  for (const std::string_view merge : file.texts("tokenizer.ggml.merges")) {
    merges.push_back(merge);
  }
  json document = document_of(vocabulary);
  document["model"] = bpe_model(ids_by_token(file, vocabulary), std::move(merges));
  document["model"]["ignore_merges"] = rule.ignores_merges;
  if (rule.composes) {
    document["normalizer"] = {{"type", "NFC"}};
  }
  document["pre_tokenizer"] = pre_tokenizer_of(rule);
  document["post_processor"] = post_processor(file, vocabulary, rule.begins_with_bos);
  document["decoder"] = byte_level(true);
  return document;
}

struct Merge {
  std::string_view left;
  std::string_view right;
  float score = 0.0F;
  std::size_t order = 0;  // by the ids of token and parts
};

// SentencePiece merges the pair whose token has the best score. As a list, best first: what Hugging Face's converter
// makes of such a model.
json merges_by_score(const Vocabulary& vocabulary, const std::vector<float>& scores) {
  std::unordered_map<std::string_view, std::size_t> ids;
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    ids.emplace(vocabulary.tokens[id], id);
  }
  std::vector<Merge> merges;
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string_view token = vocabulary.tokens[id];
    std::vector<std::tuple<std::size_t, std::size_t, Merge>> parts;
    for (std::size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = ids.find(token.substr(0, cut));
      const auto right = left == ids.end() ? left : ids.find(token.substr(cut));
      if (left != ids.end() && right != ids.end()) {
        parts.emplace_back(left->second, right->second,
                           Merge{.left = left->first, .right = right->first, .score = scores[id]});
      }
    }
    std::ranges::sort(parts, {}, [](const auto& part) { return std::pair(std::get<0>(part), std::get<1>(part)); });
    for (const auto& [left, right, merge] : parts) {
      merges.push_back(merge);
      merges.back().order = merges.size();
    }
  }
  const auto characters = [](std::string_view text) {
    return std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; });
  };
  // Of equal scores the one of longer parts comes first.
  std::ranges::sort(merges, [&](const Merge& a, const Merge& b) {
    return std::tuple(b.score, characters(b.left), characters(b.right), a.order) <
           std::tuple(a.score, characters(a.left), characters(a.right), b.order);
  });
  json list = json::array();
  for (const Merge& merge : merges) {
    list.push_back(json::array({merge.left, merge.right}));
  }
  return list;
}

json sentence_piece_tokenizer(const GgufFile& file, const Vocabulary& vocabulary) {
  const std::vector<float> scores = file.floats("tokenizer.ggml.scores");
  if (scores.size() != vocabulary.tokens.size()) {
    file.fail("tokenizer.ggml.scores", "has " + std::to_string(scores.size()) + " elements for " +
                                           std::to_string(vocabulary.tokens.size()) + " tokens");
  }
  const bool adds_space = file.boolean("tokenizer.ggml.add_space_prefix").value_or(true);
  constexpr const char* kSpace = "\u2581";
  json document = document_of(vocabulary);
  json model = bpe_model(ids_by_token(file, vocabulary), merges_by_score(vocabulary, scores));
  model["byte_fallback"] = true;
  model["fuse_unk"] = true;
  if (const auto unknown = special_token(file, vocabulary, "unknown")) {
    model["unk_token"] = *unknown;
  }
  document["model"] = std::move(model);
  json steps = json::array();
  if (adds_space) {
    steps.push_back({{"type", "Prepend"}, {"prepend", kSpace}});
  }
  steps.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpace}});
  document["normalizer"] = sequence_of("normalizers", std::move(steps));
  document["pre_tokenizer"] = nullptr;
  document["post_processor"] = post_processor(file, vocabulary, true);
  json decoders = {{{"type", "Replace"}, {"pattern", {{"String", kSpace}}}, {"content", " "}},
                   {{"type", "ByteFallback"}},
                   {{"type", "Fuse"}}};
  if (adds_space) {
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  document["decoder"] = sequence_of("decoders", std::move(decoders));
  return document;
}

// The template, or several with names.
json chat_templates(const GgufFile& file) {
  constexpr std::string_view kPrefix = "tokenizer.chat_template";
  const std::optional<std::string> usual = file.text(kPrefix);
  json named = json::array();
  for (const std::string& key : file.keys()) {
    if (key.starts_with(std::string(kPrefix) + ".")) {
      named.push_back({{"name", key.substr(kPrefix.size() + 1)}, {"template", file.text(key).value_or("")}});
    }
  }
  if (named.empty() || !usual) {
    return usual ? json(*usual) : json(nullptr);
  }
  named.push_back({{"name", "default"}, {"template", *usual}});
  return named;
}

// Texts that are no UTF-8 can't be in JSON.
void check_utf8(const GgufFile& file, const json& document) {
  try {
    static_cast<void>(document.dump());
  } catch (const json::exception&) {
    throw Error(ErrorCode::kBadFile, file.path().string(), "has a tokenizer or template with text that is not UTF-8");
  }
}

}  // namespace

std::optional<std::string_view> gguf_pre_tokenizer_name(const json& pre_tokenizer, bool ignores_merges) {
  const json steps = essential_steps(pre_tokenizer);
  const auto* found = std::ranges::find_if(kPreTokenizers, [&](const auto& named) {
    const auto& [name, rule] = named;
    return rule.ignores_merges == ignores_merges && essential_steps(pre_tokenizer_of(rule)) == steps;
  });
  return found == kPreTokenizers.end() ? std::nullopt : std::optional(found->first);
}

bool has_gguf_tokenizer(const GgufFile& file) { return file.count(kTokens) > 0; }

json gguf_tokenizer(const GgufFile& file) {
  const std::string model = file.text("tokenizer.ggml.model").value_or("");
  const Vocabulary vocabulary = read_vocabulary(file);
  json document;
  if (model == "gpt2") {
    document = byte_level_tokenizer(file, vocabulary);
  } else if (model == "llama") {
    document = sentence_piece_tokenizer(file, vocabulary);
  } else {
    refuse_tokenizer(file, "has a tokenizer of the kind \"" + model + "\"; \"gpt2\" and \"llama\" are read");
  }
  check_utf8(file, document);
  return document;
}

json gguf_tokenizer_config(const GgufFile& file) {
  const Vocabulary vocabulary = read_vocabulary(file);
  json config = json::object();
  for (const auto& [gguf, name] :
       {std::pair{"bos", "bos_token"}, std::pair{"eos", "eos_token"}, std::pair{"unknown", "unk_token"},
        std::pair{"padding", "pad_token"}, std::pair{"mask", "mask_token"}}) {
    if (const auto token = special_token(file, vocabulary, gguf)) {
      config[name] = *token;
    }
  }
  json decoder = json::object();
  for (const json& token : added_tokens(vocabulary)) {
    json entry = token;
    entry.erase("id");
    decoder[std::to_string(token["id"].get<std::uint64_t>())] = std::move(entry);
  }
  config["added_tokens_decoder"] = std::move(decoder);
  if (json templates = chat_templates(file); !templates.is_null()) {
    config["chat_template"] = std::move(templates);
  }
  check_utf8(file, config);
  return config;
}

}  // namespace diffulex_edge
