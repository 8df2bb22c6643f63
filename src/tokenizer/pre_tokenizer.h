// The "pre_tokenizer" of a tokenizer.json: cuts text into the pieces that BPE works on, one after the other.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace diffulex_edge {

class PreTokenizer {
 public:
  // `value` may be null: the text stays in one piece.
  PreTokenizer(const nlohmann::json& value, const std::string& where);

  // No piece is empty. With ByteLevel, pieces are in its alphabet.
  std::vector<std::string> cut(std::string_view text) const;

 private:
  // Appends what becomes of one piece.
  using Step = std::function<void(const std::string& piece, std::vector<std::string>& pieces)>;
  void add(const nlohmann::json& value, const std::string& where);

  std::vector<Step> steps_;
};

}  // namespace diffulex_edge
