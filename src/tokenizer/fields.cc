#include "tokenizer/fields.h"

#include <utility>

#include "diffulex_edge/error.h"

namespace diffulex_edge {

Fields::Fields(const nlohmann::json& value, std::string where) : value_(&value), where_(std::move(where)) {
  if (!value.is_object()) {
    fail("is not a JSON object");
  }
}

bool Fields::has(std::string_view key) const {
  const auto position = value_->find(key);
  return position != value_->end() && !position->is_null();
}

const nlohmann::json& Fields::require(std::string_view key) const {
  if (!has(key)) {
    fail("'" + std::string(key) + "' is missing");
  }
  return *value_->find(key);
}

Fields Fields::object(std::string_view key) const { return {require(key), where_ + ": '" + std::string(key) + "'"}; }

const nlohmann::json& Fields::list(std::string_view key) const {
  const nlohmann::json& value = require(key);
  if (!value.is_array()) {
    fail("'" + std::string(key) + "' is not a list");
  }
  return value;
}

const std::string& Fields::text(std::string_view key) const {
  const nlohmann::json& value = require(key);
  if (!value.is_string()) {
    fail("'" + std::string(key) + "' is not a string");
  }
  return value.get_ref<const std::string&>();
}

std::string Fields::text_or(std::string_view key, std::string_view fallback) const {
  return has(key) ? text(key) : std::string(fallback);
}

bool Fields::flag(std::string_view key, bool fallback) const {
  if (!has(key)) {
    return fallback;
  }
  const nlohmann::json& value = require(key);
  if (!value.is_boolean()) {
    fail("'" + std::string(key) + "' is not true or false");
  }
  return value.get<bool>();
}

void Fields::fail(const std::string& what) const { throw Error(ErrorCode::kBadFile, where_, what); }

void Fields::fail_unsupported(const std::string& what) const { throw Error(ErrorCode::kUnsupported, where_, what); }

}  // namespace diffulex_edge
