// Reads a config.json key by key and remembers which keys were understood.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace diffulex_edge {

// A key that is null counts as absent. All failures name the file and the key: Error{kBadFile} for a wrong type or an
// absent required key, Error{kUnsupported} for a value that changes the mathematics.
class ConfigReader {
 public:
  ConfigReader(nlohmann::json document, std::string where);

  const std::string& where() const { return where_; }
  bool has(std::string_view key) const;      // present and not null
  bool is_null(std::string_view key) const;  // present and null

  // Sizes and counts: integers from 1 to 2^31.
  std::int64_t require_size(std::string_view key);
  std::optional<std::int64_t> size(std::string_view key);
  std::optional<std::int64_t> integer(std::string_view key);
  std::optional<double> number(std::string_view key);
  std::optional<bool> boolean(std::string_view key);
  std::optional<std::string> text(std::string_view key);
  // A positive number that float32 can hold.
  double positive(std::string_view key, double fallback);
  // The reader of a nested object.
  std::optional<ConfigReader> object(std::string_view key);
  // The whole value, for what the other calls do not cover; nullptr if absent.
  const nlohmann::json* value(std::string_view key);

  // Throws unless the key is absent or has the ordinary value. `required_default`: what the model's own code assumes
  // when the key is absent; if that is not the ordinary value, absence is an error too.
  void expect(std::string_view key, const nlohmann::json& ordinary, const nlohmann::json& required_default);
  void expect(std::string_view key, const nlohmann::json& ordinary) { expect(key, ordinary, ordinary); }
  // Marks keys as understood without reading them.
  void ignore(std::initializer_list<std::string_view> keys);
  // A key that is false counts as absent.
  void drop_false(std::initializer_list<const char*> keys);
  // Keys that the caller declares harmless, here and in nested objects.
  void set_harmless(std::set<std::string, std::less<>> keys) { harmless_ = std::move(keys); }
  // Throws Error{kUnsupported} if keys were neither read nor ignored and are not null; names all of them.
  void finish() const;

  [[noreturn]] void fail(std::string_view key, const std::string& what, const std::string& advice = {}) const;
  [[noreturn]] void fail_unsupported(std::string_view key, const std::string& what) const;

 private:
  const nlohmann::json* find(std::string_view key);

  nlohmann::json document_;
  std::string where_;
  std::set<std::string, std::less<>> known_;
  std::set<std::string, std::less<>> harmless_;
};

}  // namespace diffulex_edge
