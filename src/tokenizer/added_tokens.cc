#include "tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "diffulex_edge/error.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
  return (begin == 0 || !is_word_character(character_at(text, previous_character(text, begin)))) &&
         (end == text.size() || !is_word_character(character_at(text, end)));
}

std::size_t before_spaces(std::string_view text, std::size_t position) {
  while (position > 0) {
    const std::size_t previous = previous_character(text, position);
    if (!is_white_space(character_at(text, previous))) {
      break;
    }
    position = previous;
  }
  return position;
}

std::size_t behind_spaces(std::string_view text, std::size_t position) {
  while (position < text.size() && is_white_space(character_at(text, position))) {
    position += character_length(text[position]);
  }
  return position;
}

}  // namespace

void AddedTokenFinder::add(AddedToken token, std::string pattern) {
  first_bytes_.set(static_cast<std::uint8_t>(pattern.front()));
  patterns_.emplace(std::move(pattern), std::move(token));
}

AddedTokenFinder::Patterns::const_iterator AddedTokenFinder::match_at(std::string_view text,
                                                                      std::size_t position) const {
  auto longest = patterns_.end();
  if (!first_bytes_.test(static_cast<std::uint8_t>(text[position]))) {
    return longest;
  }
  for (std::size_t length = 1; length <= text.size() - position; ++length) {
    const std::string_view prefix = text.substr(position, length);
    const auto next = patterns_.lower_bound(prefix);  // a pattern comes before all that it begins
    if (next == patterns_.end() || !next->first.starts_with(prefix)) {
      break;
    }
    if (next->first.size() == length) {
      longest = next;
    }
  }
  return longest;
}

std::vector<Section> AddedTokenFinder::cut(std::string_view text) const {
  std::vector<Section> sections;
  std::size_t done = 0;
  for (std::size_t position = 0; position < text.size();) {
    const auto match = match_at(text, position);
    if (match == patterns_.end()) {
      ++position;
      continue;
    }
    const AddedToken& token = match->second;
    std::size_t begin = position;
    std::size_t end = position + match->first.size();
    position = end;  // even where the token is not taken, and where it takes spaces: as the original
    if (token.single_word && !stands_alone(text, begin, end)) {
      continue;
    }
    if (token.lstrip) {
      begin = std::max(before_spaces(text, begin), done);
    }
    if (token.rstrip) {
      end = behind_spaces(text, end);
    }
    if (done < begin) {
      sections.push_back({.text = text.substr(done, begin - done)});
    }
    sections.push_back({.text = text.substr(begin, end - begin), .id = token.id});
    done = end;
  }
  if (done < text.size()) {
    sections.push_back({.text = text.substr(done)});
  }
  return sections;
}

AddedTokens::AddedTokens(const std::vector<AddedToken>& tokens, const Vocabulary& vocabulary,
                         const Normalizer& normalizer, const std::string& where) {
  const auto fail = [&](const std::string& what) { throw Error(ErrorCode::kBadFile, where, what); };
  const std::int64_t known = vocabulary.size();
  std::optional<std::int64_t> last;
  for (const AddedToken& token : tokens) {
    if (token.content.empty()) {
      fail("the token with id " + std::to_string(token.id) + " is empty");
    }
    const std::int64_t next = last && *last >= known ? *last + 1 : known;
    const std::int64_t expected = vocabulary.id_of(token.content).value_or(next);
    if (token.id != expected) {
      fail("the token '" + token.content + "' has id " + std::to_string(token.id) +
           ", but Hugging Face's reader would give it " + std::to_string(expected));
    }
    last = std::max(last.value_or(token.id), token.id);
    if (!ids_.emplace(token.content, token.id).second) {
      fail("the token '" + token.content + "' is there twice");
    }
    std::string pattern = token.normalized ? normalizer.apply(token.content).text : token.content;
    if (pattern.empty()) {
      fail("nothing is left of the token '" + token.content + "' when it is normalized");
    }
    texts_.emplace(token.id, pattern);
    if (token.special) {
      special_.insert(token.id);
    }
    (token.normalized ? normalized_ : raw_).add(token, std::move(pattern));
  }
}

const std::string* AddedTokens::text_of(std::int64_t id) const {
  const auto position = texts_.find(id);
  return position == texts_.end() ? nullptr : &position->second;
}

std::optional<std::int64_t> AddedTokens::id_of(std::string_view content) const {
  const auto position = ids_.find(content);
  return position == ids_.end() ? std::nullopt : std::optional(position->second);
}

}  // namespace diffulex_edge
