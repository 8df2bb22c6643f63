// The "normalizer" of a tokenizer.json: Unicode normal forms (UAX 15).
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace diffulex_edge {

class Normalizer {
 public:
  // `value` may be null: no normalization.
  Normalizer(const nlohmann::json& value, const std::string& where);

  std::string apply(std::string_view text) const;

 private:
  enum class Form { kNfc, kNfd, kNfkc, kNfkd };
  void add(const nlohmann::json& value, const std::string& where);

  std::vector<Form> forms_;
};

}  // namespace diffulex_edge
