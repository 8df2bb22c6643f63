// Typed members of the objects in a tokenizer.json.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace diffulex_edge {

// An object and its place in the file, "FILE: 'pre_tokenizer'". All failures name place and key: Error{kBadFile}.
class Fields {
 public:
  // Throws unless `value` is an object. `value` must outlive this.
  Fields(const nlohmann::json& value, std::string where);

  const std::string& where() const { return where_; }
  bool has(std::string_view key) const;                       // present and not null
  const nlohmann::json& require(std::string_view key) const;  // present and not null
  Fields object(std::string_view key) const;
  const nlohmann::json& list(std::string_view key) const;
  const std::string& text(std::string_view key) const;
  std::string text_or(std::string_view key, std::string_view fallback) const;
  bool flag(std::string_view key, bool fallback) const;

  [[noreturn]] void fail(const std::string& what) const;
  [[noreturn]] void fail_unsupported(const std::string& what) const;

 private:
  const nlohmann::json* value_;
  std::string where_;
};

}  // namespace diffulex_edge
