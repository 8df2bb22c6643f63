#include "tokenizer/tokenizer_json.h"

#include <limits>
#include <optional>
#include <utility>

#include "core/json.h"
#include "model_files/model_files.h"

namespace diffulex_edge {
namespace {

nlohmann::json member_or_null(const nlohmann::json& document, const char* key) {
  const auto position = document.find(key);
  return position == document.end() ? nlohmann::json() : *position;
}

// The special tokens that a template puts before a single text, in a post-processor or one of a sequence of them. What
// follows the text (an end of sequence) would end a text that is to be continued, and is left out.
std::vector<std::int64_t> read_begin_ids(const nlohmann::json& value, const std::string& where) {
  std::vector<std::int64_t> ids;
  if (value.is_null()) {
    return ids;
  }
  const Fields fields(value, where);
  if (fields.text("type") == "Sequence") {
    for (const nlohmann::json& processor : fields.list("processors")) {
      const std::vector<std::int64_t> more = read_begin_ids(processor, where);
      ids.insert(ids.end(), more.begin(), more.end());
    }
  }
  if (fields.text("type") == "BertProcessing" || fields.text("type") == "RobertaProcessing") {
    const nlohmann::json& pair = fields.list("cls");
    if (pair.size() != 2 || !pair[1].is_number_unsigned()) {
      fields.fail("'cls' is not a token and its id");
    }
    ids.push_back(pair[1].get<std::int64_t>());
  }
  if (fields.text("type") != "TemplateProcessing") {
    return ids;  // others move offsets, which nobody asks for here
  }
  for (const nlohmann::json& piece : fields.list("single")) {
    const Fields piece_fields(piece, where);
    if (!piece_fields.has("SpecialToken")) {
      break;
    }
    const std::string& name = piece_fields.object("SpecialToken").text("id");
    for (const nlohmann::json& id : fields.object("special_tokens").object(name).list("ids")) {
      if (!id.is_number_unsigned()) {
        fields.fail("the id of '" + name + "' is " + id.dump());
      }
      ids.push_back(id.get<std::int64_t>());
    }
  }
  return ids;
}

BpeSource read_bpe(const Fields& model) {
  if (model.has("dropout") && model.require("dropout") != 0.0) {
    model.fail_unsupported("'dropout' is not supported");
  }
  BpeSource source;
  source.vocabulary = read_vocabulary(model, "vocab");
  source.continuing_prefix = model.text_or("continuing_subword_prefix", "");
  source.end_suffix = model.text_or("end_of_word_suffix", "");
  source.fuses_unknown = model.flag("fuse_unk", false);
  source.has_byte_fallback = model.flag("byte_fallback", false);
  source.ignores_merges = model.flag("ignore_merges", false);
  if (model.has("unk_token")) {
    source.unknown_token = model.text("unk_token");
  }
  const nlohmann::json& merges = model.list("merges");
  source.merges.reserve(merges.size());
  for (const nlohmann::json& merge : merges) {
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) {
      continue;  // the first line of a merges.txt
    }
    source.merges.push_back(read_merge(model, merge, source.merges.size()));
  }
  return source;
}

UnigramSource read_unigram(const Fields& model) {
  UnigramSource source{.has_byte_fallback = model.flag("byte_fallback", false)};
  for (const nlohmann::json& entry : model.list("vocab")) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
      model.fail("'vocab' number " + std::to_string(source.tokens.size()) + " is not a token and its score");
    }
    source.tokens.push_back({.text = entry[0].get<std::string>(), .score = entry[1].get<double>()});
  }
  if (model.has("unk_id")) {
    const nlohmann::json& id = model.require("unk_id");
    if (!id.is_number_unsigned()) {
      model.fail("'unk_id' is " + id.dump());
    }
    source.unknown_id = id.get<std::size_t>();
  }
  return source;
}

WordPieceSource read_word_piece(const Fields& model) {
  WordPieceSource source;
  source.vocabulary = read_vocabulary(model, "vocab");
  source.unknown_token = model.text_or("unk_token", source.unknown_token);
  source.continuing_prefix = model.text_or("continuing_subword_prefix", source.continuing_prefix);
  if (model.has("max_input_chars_per_word")) {
    const nlohmann::json& most = model.require("max_input_chars_per_word");
    if (!most.is_number_unsigned()) {
      model.fail("'max_input_chars_per_word' is " + most.dump());
    }
    source.max_word_characters = most.get<std::uint64_t>();
  }
  return source;
}

void read_model(const Fields& model, TokenizerSource& source) {
  // Old files do not say: merges are of BPE.
  const std::string type = model.has("type") || !model.has("merges") ? model.text("type") : "BPE";
  if (type == "BPE") {
    source.model = read_bpe(model);
  } else if (type == "Unigram") {
    source.model = read_unigram(model);
  } else if (type == "WordPiece") {
    source.model = read_word_piece(model);
  } else {
    model.fail_unsupported("the model '" + type + "' is not supported; supported are BPE, Unigram and WordPiece");
  }
}

}  // namespace

Vocabulary read_vocabulary(const Fields& fields, const char* key) {
  const nlohmann::json& members = fields.require(key);
  if (!members.is_object() || members.empty()) {
    fields.fail("'" + std::string(key) + "' is not a JSON object with tokens");
  }
  Vocabulary vocabulary;
  vocabulary.reserve(members.size());
  for (const auto& [token, id] : members.items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > Vocabulary::kMaxId) {
      fields.fail("the token '" + token + "' has the id " + id.dump() + ", which is not an integer from 0 to 2^31 - 1");
    }
    if (const std::string* other = vocabulary.add(token, id.get<std::int64_t>())) {
      fields.fail("the tokens '" + *other + "' and '" + token + "' have the same id " + id.dump());
    }
  }
  return vocabulary;
}

std::pair<std::string, std::string> read_merge(const Fields& fields, const nlohmann::json& merge, std::size_t number) {
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const std::size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  fields.fail("'merges' number " + std::to_string(number) + " is not a pair of tokens");
}

AddedToken read_added_token(const Fields& fields, std::int64_t id) {
  return {.id = id,
          .content = fields.text("content"),
          .single_word = fields.flag("single_word", false),
          .lstrip = fields.flag("lstrip", false),
          .rstrip = fields.flag("rstrip", false),
          .normalized = fields.flag("normalized", !fields.flag("special", false)),
          .special = fields.flag("special", false)};
}

TokenizerSource read_tokenizer_json(const std::filesystem::path& path) {
  const nlohmann::json document = read_document(path, kMaxTokenizerBytes);
  TokenizerSource source{.where = path.string()};
  const Fields fields(document, source.where);
  read_model(fields.object("model"), source);
  source.normalizer = member_or_null(document, "normalizer");
  source.pre_tokenizer = member_or_null(document, "pre_tokenizer");
  source.decoder = member_or_null(document, "decoder");
  if (fields.has("added_tokens")) {
    for (const nlohmann::json& entry : fields.list("added_tokens")) {
      const Fields token(entry, source.where + ": 'added_tokens'");
      const nlohmann::json& id = token.require("id");
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() > Vocabulary::kMaxId) {
        token.fail("'id' is " + id.dump() + ", which is not an integer from 0 to 2^31 - 1");
      }
      source.added_tokens.push_back(read_added_token(token, id.get<std::int64_t>()));
    }
  }
  source.begin_ids = read_begin_ids(member_or_null(document, "post_processor"), source.where + ": 'post_processor'");
  return source;
}

}  // namespace diffulex_edge
