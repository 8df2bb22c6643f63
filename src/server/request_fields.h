// The fields of a request's body, read strictly: a value of another type is an ApiError that names the field.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace diffulex_edge {

class RequestFields {
 public:
  // `body` must be an object, and outlive this. Throws ApiError.
  explicit RequestFields(const nlohmann::json& body);

  // Null where the field is absent or null.
  const nlohmann::json* find(const std::string& name) const;
  std::optional<bool> boolean(const std::string& name) const;
  std::optional<std::int64_t> integer(const std::string& name, std::int64_t least,
                                      std::int64_t most = std::numeric_limits<std::int64_t>::max()) const;
  std::optional<double> number(const std::string& name) const;
  std::optional<std::string> text(const std::string& name) const;
  // A text, or a list of at most `most` texts; none of them empty.
  std::vector<std::string> texts(const std::string& name, std::size_t most) const;

 private:
  const nlohmann::json& body_;
};

// 400 about the field `name`.
[[noreturn]] void refuse_field(const std::string& name, const std::string& what,
                               const std::string& code = "invalid_value");

}  // namespace diffulex_edge
