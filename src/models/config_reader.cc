#include "models/config_reader.h"

#include <cmath>
#include <utility>

#include "core/join.h"
#include "core/json.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {

ConfigReader::ConfigReader(nlohmann::json document, std::string where)
    : document_(std::move(document)), where_(std::move(where)) {
  if (!document_.is_object()) {
    throw Error(ErrorCode::kBadFile, where_, "is not a JSON object");
  }
}

bool ConfigReader::has(std::string_view key) const {
  const auto position = document_.find(key);
  return position != document_.end() && !position->is_null();
}

bool ConfigReader::is_null(std::string_view key) const {
  const auto position = document_.find(key);
  return position != document_.end() && position->is_null();
}

const nlohmann::json* ConfigReader::find(std::string_view key) {
  known_.emplace(key);
  const auto position = document_.find(key);
  return position == document_.end() || position->is_null() ? nullptr : &*position;
}

const nlohmann::json* ConfigReader::value(std::string_view key) { return find(key); }

std::optional<std::int64_t> ConfigReader::integer(std::string_view key) {
  const nlohmann::json* found = find(key);
  if (found == nullptr) {
    return std::nullopt;
  }
  if (!found->is_number_integer() || (found->is_number_unsigned() && found->get<std::uint64_t>() > INT64_MAX)) {
    fail(key, "is " + json_text(*found) + ", not an integer");
  }
  return found->get<std::int64_t>();
}

std::optional<std::int64_t> ConfigReader::size(std::string_view key) {
  constexpr std::int64_t kLargest = std::int64_t{1} << 31U;
  const auto number = integer(key);
  if (number && (*number < 1 || *number > kLargest)) {
    fail(key, "is " + std::to_string(*number) + ", which is not a size from 1 to 2^31");
  }
  return number;
}

std::int64_t ConfigReader::require_size(std::string_view key) {
  const auto number = size(key);
  if (!number) {
    fail(key, "is missing");
  }
  return *number;
}

std::optional<double> ConfigReader::number(std::string_view key) {
  const nlohmann::json* found = find(key);
  if (found == nullptr) {
    return std::nullopt;
  }
  if (!found->is_number() || !std::isfinite(found->get<double>())) {
    fail(key, "is " + json_text(*found) + ", not a finite number");
  }
  return found->get<double>();
}

double ConfigReader::positive(std::string_view key, double fallback) {
  const double result = number(key).value_or(fallback);
  if (!(result > 0.0) || !std::isnormal(static_cast<float>(result))) {
    fail(key, "is " + json_text(result) + ", not a positive number that float32 can hold");
  }
  return result;
}

std::optional<bool> ConfigReader::boolean(std::string_view key) {
  const nlohmann::json* found = find(key);
  if (found == nullptr) {
    return std::nullopt;
  }
  if (!found->is_boolean()) {
    fail(key, "is " + json_text(*found) + ", not true or false");
  }
  return found->get<bool>();
}

std::optional<std::string> ConfigReader::text(std::string_view key) {
  const nlohmann::json* found = find(key);
  if (found == nullptr) {
    return std::nullopt;
  }
  if (!found->is_string()) {
    fail(key, "is " + json_text(*found) + ", not a string");
  }
  return found->get<std::string>();
}

std::optional<ConfigReader> ConfigReader::object(std::string_view key) {
  const nlohmann::json* found = find(key);
  if (found == nullptr) {
    return std::nullopt;
  }
  ConfigReader nested(*found, where_ + ": '" + std::string(key) + "'");
  nested.set_harmless(harmless_);
  return nested;
}

void ConfigReader::expect(std::string_view key, const nlohmann::json& ordinary,
                          const nlohmann::json& required_default) {
  const nlohmann::json* found = find(key);
  const nlohmann::json& effective = found == nullptr ? required_default : *found;
  if (effective != ordinary) {
    fail_unsupported(key, (found == nullptr ? "is absent, which means " : "is ") + json_text(effective) +
                              ", which changes the mathematics; supported is " + ordinary.dump());
  }
}

void ConfigReader::ignore(std::initializer_list<std::string_view> keys) { known_.insert(keys.begin(), keys.end()); }

void ConfigReader::drop_false(std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    const auto found = document_.find(key);
    if (found != document_.end() && *found == false) {
      document_.erase(found);
    }
  }
}

void ConfigReader::finish() const {
  std::vector<std::string> unknown;
  for (const auto& [key, value] : document_.items()) {
    if (!value.is_null() && !known_.contains(key) && !harmless_.contains(key) && !key.starts_with('_')) {
      unknown.push_back(key);
    }
  }
  if (unknown.empty()) {
    return;
  }
  const bool is_one = unknown.size() == 1;
  const std::string names = join(unknown, ", ", " and ", [](const std::string& key) { return "'" + key + "'"; });
  std::string options;
  for (const std::string& key : unknown) {
    options += " --ignore-config-key " + key;
  }
  throw Error(ErrorCode::kUnsupported, where_ + ": " + names,
              std::string(is_one ? "is" : "are") + " not known here and could change the mathematics",
              std::string("if ") + (is_one ? "it does" : "they do") + " not, say" + options);
}

void ConfigReader::fail(std::string_view key, const std::string& what, const std::string& advice) const {
  throw Error(ErrorCode::kBadFile, where_ + ": '" + std::string(key) + "'", what, advice);
}

void ConfigReader::fail_unsupported(std::string_view key, const std::string& what) const {
  throw Error(ErrorCode::kUnsupported, where_ + ": '" + std::string(key) + "'", what);
}

}  // namespace diffulex_edge
