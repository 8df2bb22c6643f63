// The "normalizer" of a tokenizer.json: what becomes of the text before it is cut.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/fields.h"

namespace diffulex_edge {

class Normalizer {
 public:
  // `value` may be null: no normalization.
  Normalizer(const nlohmann::json& value, const std::string& where);

  struct Result {
    std::string text;
    // At the front, from the first character that was given; none: it was taken away.
    std::size_t start_bytes = 0;
  };

  // `text` is valid UTF-8, and so is the result. Throws what append_within() does, and CharacterMap::apply().
  Result apply(std::string_view text) const;

 private:
  using Step = std::function<void(Result& result, std::size_t limit)>;
  void add(const nlohmann::json& value, const std::string& where);
  void add_replace(const Fields& fields);
  void add_bert(const Fields& fields);

  std::vector<Step> steps_;
};

}  // namespace diffulex_edge
