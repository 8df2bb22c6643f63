#include "server/request_fields.h"

#include "server/api_error.h"

namespace diffulex_edge {
namespace {

[[noreturn]] void refuse_type(const std::string& name, const std::string& wanted, const nlohmann::json& value) {
  refuse_field(name, "must be " + wanted + ", not " + value.type_name(), "invalid_type");
}

}  // namespace

void refuse_field(const std::string& name, const std::string& what, const std::string& code) {
  throw ApiError(400, "'" + name + "' " + what, code, name);
}

RequestFields::RequestFields(const nlohmann::json& body) : body_(body) {
  if (!body.is_object()) {
    throw ApiError(400, std::string("the body must be a JSON object, not ") + body.type_name(), "invalid_type");
  }
}

const nlohmann::json* RequestFields::find(const std::string& name) const {
  const auto field = body_.find(name);
  return field == body_.end() || field->is_null() ? nullptr : &*field;
}

std::optional<bool> RequestFields::boolean(const std::string& name) const {
  const nlohmann::json* value = find(name);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_boolean()) {
    refuse_type(name, "true or false", *value);
  }
  return value->get<bool>();
}

std::optional<std::int64_t> RequestFields::integer(const std::string& name, std::int64_t least,
                                                   std::int64_t most) const {
  const nlohmann::json* value = find(name);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_number_integer()) {
    refuse_type(name, "an integer", *value);
  }
  const bool is_too_large =
      value->is_number_unsigned() && value->get<std::uint64_t>() > static_cast<std::uint64_t>(most);
  const std::int64_t number = is_too_large ? most : value->get<std::int64_t>();
  if (is_too_large || number < least || number > most) {
    const bool has_most = most != std::numeric_limits<std::int64_t>::max();
    refuse_field(name, "must be " + std::to_string(least) + (has_most ? " to " + std::to_string(most) : " or more"));
  }
  return number;
}

std::optional<double> RequestFields::number(const std::string& name) const {
  const nlohmann::json* value = find(name);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_number()) {
    refuse_type(name, "a number", *value);
  }
  return value->get<double>();
}

std::optional<std::string> RequestFields::text(const std::string& name) const {
  const nlohmann::json* value = find(name);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_string()) {
    refuse_type(name, "a string", *value);
  }
  return value->get<std::string>();
}

std::vector<std::string> RequestFields::texts(const std::string& name, std::size_t most) const {
  const nlohmann::json* value = find(name);
  if (value == nullptr) {
    return {};
  }
  std::vector<std::string> result;
  if (value->is_string()) {
    result.push_back(value->get<std::string>());
  } else if (value->is_array()) {
    if (value->size() > most) {
      refuse_field(
          name, "has " + std::to_string(value->size()) + " entries, at most " + std::to_string(most) + " are allowed");
    }
    for (const nlohmann::json& item : *value) {
      if (!item.is_string()) {
        refuse_type(name, "a string or a list of strings", item);
      }
      result.push_back(item.get<std::string>());
    }
  } else {
    refuse_type(name, "a string or a list of strings", *value);
  }
  for (const std::string& text : result) {
    if (text.empty()) {
      refuse_field(name, "has an empty string");
    }
  }
  return result;
}

}  // namespace diffulex_edge
