#include "tokenizer/normalizer.h"

#include <algorithm>
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
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

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

std::string_view start_of(const Normalizer::Result& result) {
  return std::string_view(result.text).substr(0, result.start_bytes);
}

// Bytes of the first characters that hold `bytes`: normal forms join and reorder what the start was cut from.
std::size_t whole_characters(std::string_view text, std::size_t bytes) {
  std::size_t end = 0;
  while (end < std::min(bytes, text.size())) {
    end += character_length(text[end]);
  }
  return end;
}

// A step that does the same to each character, and makes texts longer by a few times at most.
auto plain(PlainStep step) {
  return [step = std::move(step)](Normalizer::Result& result, std::size_t /*limit*/) {
    const std::size_t start = step(start_of(result)).size();
    result.text = step(result.text);
    result.start_bytes = whole_characters(result.text, start);
  };
}

// What the start becomes; the original loses count of what becomes nothing, and takes the next character for it.
std::size_t mapped_start(const CharacterMap& map, const Normalizer::Result& result, std::size_t limit) {
  std::size_t bytes = map.apply(start_of(result), limit).size();
  for (std::size_t i = result.start_bytes, length = 0; i > 0 && bytes == 0 && i < result.text.size(); i += length) {
    length = character_length(result.text[i]);
    bytes = map.apply(std::string_view(result.text).substr(i, length), limit).size();
  }
  return bytes;
}

void take_from_start(std::size_t bytes, Normalizer::Result& result) {
  result.start_bytes -= std::min(bytes, result.start_bytes);
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
        plain([form = *form](std::string_view text) { return to_normal_form(std::string(text), form); }));
  } else if (auto step = simple_step(type)) {
    steps_.emplace_back(plain(std::move(step)));
  } else if (type == "Prepend") {
    steps_.emplace_back([prefix = fields.text("prepend")](Result& result, std::size_t /*limit*/) {
      if (!result.text.empty()) {
        result.text.insert(0, prefix);
        result.start_bytes += result.start_bytes == 0 ? 0 : prefix.size();
      }
    });
  } else if (type == "Replace") {
    add_replace(fields);
  } else if (type == "Strip") {
    const bool left = fields.flag("strip_left", true);
    const bool right = fields.flag("strip_right", true);
    steps_.emplace_back([left, right](Result& result, std::size_t /*limit*/) {
      const std::size_t length = result.text.size();
      result.text = strip_spaces(result.text, left, false);
      take_from_start(length - result.text.size(), result);
      result.text = strip_spaces(result.text, false, right);
    });
  } else if (type == "Precompiled") {
    const std::string place = where + ": 'precompiled_charsmap'";
    auto map = std::make_shared<const CharacterMap>(read_bytes(fields, "precompiled_charsmap", place), place);
    steps_.emplace_back([map = std::move(map)](Result& result, std::size_t limit) {
      result.start_bytes = mapped_start(*map, result, limit);
      result.text = map->apply(result.text, limit);
    });
  } else if (type == "BertNormalizer") {
    add_bert(fields);
  } else {
    fields.fail_unsupported("the normalizer '" + type +
                            "' is not supported; supported are NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, "
                            "Strip, StripAccents, Nmt, Precompiled, BertNormalizer, ByteLevel and Sequence");
  }
}

void Normalizer::add_replace(const Fields& fields) {
  steps_.emplace_back([replacement = Replacement(fields)](Result& result, std::size_t limit) {
    const std::size_t removed = replacement.bytes_removed_from_start(result.text);
    if (removed > 0) {
      take_from_start(removed, result);
    } else if (result.start_bytes > 0) {
      const std::size_t length = replacement.apply(start_of(result), limit).size();
      result.start_bytes = std::max(length, std::size_t{1});
    }
    result.text = replacement.apply(result.text, limit);
    result.start_bytes = std::min(result.start_bytes, result.text.size());
  });
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

Normalizer::Result Normalizer::apply(std::string_view text) const {
  Result result{.text = std::string(text), .start_bytes = text.empty() ? 0 : character_length(text.front())};
  const std::size_t limit = longest_result(text.size());
  for (const Step& step : steps_) {
    step(result, limit);
    check_length(result.text.size(), limit);
  }
  return result;
}

}  // namespace diffulex_edge
