// The "decoder" of a tokenizer.json: puts tokens together to text.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tokenizer/fields.h"

namespace diffulex_edge {

class TokenDecoder {
 public:
  // Which part of a text the tokens are.
  struct Part {
    bool is_start = true;  // false: others stand before them, so that a space at the beginning stays
    bool is_end = true;    // false: others may follow, so that what they could still change is left out
  };

  // `value` may be null: tokens are put together with spaces.
  TokenDecoder(const nlohmann::json& value, const std::string& where);

  // Valid UTF-8. Throws what append_within() does.
  std::string decode(std::vector<std::string> tokens, Part part) const;

 private:
  using Step = std::function<void(std::vector<std::string>& tokens, Part part, std::size_t limit)>;
  void add(const nlohmann::json& value, const std::string& where);
  void add_strip(const Fields& fields);

  std::vector<Step> steps_;
  bool is_fused_ = false;  // there is one token only
};

}  // namespace diffulex_edge
