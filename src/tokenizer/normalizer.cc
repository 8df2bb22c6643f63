#include "tokenizer/normalizer.h"

#include <array>
#include <memory>
#include <optional>
#include <utility>

#include "tokenizer/bounded_text.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/character_map.h"
#include "tokenizer/replacement.h"
#include "tokenizer/text_cleaning.h"
#include "tokenizer/unicode_forms.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kMaxSteps = 64;  // each costs time for every text

std::optional<NormalForm> normal_form(const std::string& type) {
  constexpr std::array<std::pair<std::string_view, NormalForm>, 4> kForms = {
      {{"NFC", NormalForm::kNfc}, {"NFD", NormalForm::kNfd}, {"NFKC", NormalForm::kNfkc}, {"NFKD", NormalForm::kNfkd}}};
  for (const auto& [name, form] : kForms) {
    if (name == type) {
      return form;
    }
  }
  return std::nullopt;
}

using PlainStep = std::function<std::string(std::string_view)>;

// A step that makes texts longer by a few times at most.
auto plain(PlainStep step) {
  return [step = std::move(step)](std::string_view text, std::size_t /*limit*/) { return step(text); };
}

PlainStep simple_step(const std::string& type) {
  if (type == "Lowercase") {
    return to_lower_case;
  }
  if (type == "StripAccents") {
    return strip_marks;
  }
  if (type == "Nmt") {
    return clean_for_nmt;
  }
  if (type == "ByteLevel") {
    return to_byte_characters;
  }
  return nullptr;
}

// Base64, or bytes where the object was made in memory.
std::string read_bytes(const Fields& fields, const char* key, const std::string& place) {
  const nlohmann::json& value = fields.require(key);
  if (value.is_binary()) {
    return {value.get_binary().begin(), value.get_binary().end()};
  }
  return from_base64(fields.text(key), place);
}

}  // namespace

Normalizer::Normalizer(const nlohmann::json& value, const std::string& where) {
  if (!value.is_null()) {
    add(value, where);
  }
}

void Normalizer::add(const nlohmann::json& value, const std::string& where) {
  const Fields fields(value, where);
  if (steps_.size() > kMaxSteps) {
    fields.fail("it has more than " + std::to_string(kMaxSteps) + " steps");
  }
  const std::string& type = fields.text("type");
  if (type == "Sequence") {
    for (const nlohmann::json& member : fields.list("normalizers")) {
      add(member, where);
    }
  } else if (const std::optional<NormalForm> form = normal_form(type)) {
    steps_.emplace_back(
        [form = *form](std::string text, std::size_t /*limit*/) { return to_normal_form(std::move(text), form); });
  } else if (auto step = simple_step(type)) {
    steps_.emplace_back(plain(std::move(step)));
  } else if (type == "Prepend") {
    steps_.emplace_back([prefix = fields.text("prepend")](std::string_view text, std::size_t /*limit*/) {
      return text.empty() ? std::string() : prefix + std::string(text);
    });
  } else if (type == "Replace") {
    steps_.emplace_back([replacement = Replacement(fields)](std::string_view text, std::size_t limit) {
      return replacement.apply(text, limit);
    });
  } else if (type == "Strip") {
    const bool left = fields.flag("strip_left", true);
    const bool right = fields.flag("strip_right", true);
    steps_.emplace_back(plain([left, right](std::string_view text) { return strip_spaces(text, left, right); }));
  } else if (type == "Precompiled") {
    const std::string place = where + ": 'precompiled_charsmap'";
    auto map = std::make_shared<const CharacterMap>(read_bytes(fields, "precompiled_charsmap", place), place);
    steps_.emplace_back(
        [map = std::move(map)](std::string_view text, std::size_t limit) { return map->apply(text, limit); });
  } else if (type == "BertNormalizer") {
    add_bert(fields);
  } else {
    fields.fail_unsupported("the normalizer '" + type +
                            "' is not supported; supported are NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, "
                            "Strip, StripAccents, Nmt, Precompiled, BertNormalizer, ByteLevel and Sequence");
  }
}

void Normalizer::add_bert(const Fields& fields) {
  const bool is_lower = fields.flag("lowercase", true);
  if (fields.flag("clean_text", true)) {
    steps_.emplace_back(plain(clean_text));
  }
  if (fields.flag("handle_chinese_chars", true)) {
    steps_.emplace_back(plain(space_ideographs));
  }
  if (fields.flag("strip_accents", is_lower)) {
    steps_.emplace_back(plain(strip_nonspacing_marks));
  }
  if (is_lower) {
    steps_.emplace_back(plain(to_lower_case));
  }
}

std::string Normalizer::apply(std::string_view text) const {
  std::string result(text);
  const std::size_t limit = longest_result(text.size());
  for (const Step& step : steps_) {
    result = step(std::move(result), limit);
    check_length(result.size(), limit);
  }
  return result;
}

}  // namespace diffulex_edge
