// The "pre_tokenizer" of a tokenizer.json: cuts text into the pieces that the model works on, one after the other.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/fields.h"

namespace diffulex_edge {

class PreTokenizer {
 public:
  // `value` may be null: the text stays in one piece.
  PreTokenizer(const nlohmann::json& value, const std::string& where);

  // No piece is empty. With ByteLevel, pieces are in its alphabet. `begins_input`: nothing stands before the text, not
  // even an added token. Throws what append_within() does.
  std::vector<std::string> cut(std::string_view text, bool begins_input) const;

 private:
  struct Piece {
    std::string text;
    bool begins_input = false;
  };
  // Appends what becomes of one piece.
  using Step = std::function<void(const Piece& piece, std::vector<Piece>& pieces)>;
  void add(const nlohmann::json& value, const std::string& where);
  void add_byte_level(const Fields& fields);
  void add_metaspace(const Fields& fields);

  std::vector<Step> steps_;
};

}  // namespace diffulex_edge
