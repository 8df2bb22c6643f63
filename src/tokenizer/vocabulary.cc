#include "tokenizer/vocabulary.h"

#include <algorithm>
#include <utility>

namespace diffulex_edge {

void Vocabulary::reserve(std::size_t tokens) {
  ids_.reserve(tokens);
  tokens_.reserve(tokens);
}

const std::string* Vocabulary::add(std::string token, std::int64_t id) {
  if (const std::string* other = this->token(id)) {
    return other;
  }
  const auto position = ids_.insert_or_assign(std::move(token), static_cast<std::uint32_t>(id)).first;
  tokens_.emplace(id, &position->first);
  largest_ = std::max(largest_, id);
  return nullptr;
}

std::optional<std::uint32_t> Vocabulary::id_of(std::string_view token) const {
  const auto position = ids_.find(token);
  return position == ids_.end() ? std::nullopt : std::optional(position->second);
}

const std::string* Vocabulary::token(std::int64_t id) const {
  const auto position = tokens_.find(id);
  return position == tokens_.end() ? nullptr : position->second;
}

}  // namespace diffulex_edge
