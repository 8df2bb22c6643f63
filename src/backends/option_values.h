// Values of BackendConfig::backend_options, by the types that a backend's description gives them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/backend_description.h"

namespace diffulex_edge {

// What an option is called in errors: "chunk size" for "chunk_size".
std::string spoken_name(const BackendOption& option);

// Throws Error{kInvalidArgument}, naming the option, where `text` is not of its type.
void check_option_value(const BackendOption& option, const std::string& text);

// The same for each of `given`, and for those that the description does not have.
void check_options(const BackendDescription& description, const std::map<std::string, std::string>& given);

class OptionValues {
 public:
  // Throws as check_options. Keeps a reference to the description.
  OptionValues(const BackendDescription& description, const std::map<std::string, std::string>& given);

  const BackendDescription& description() const { return description_; }
  // Whether the description has it.
  bool has(std::string_view name) const;
  bool is_default(std::string_view name) const { return text(name) == option(name).default_value; }
  // The value of an option, or its default. `name` is one of the description's, of a type that has such values.
  std::string text(std::string_view name) const;
  bool is_on(std::string_view name) const { return text(name) == "true"; }
  std::int64_t count(std::string_view name) const;
  std::optional<std::int64_t> size(std::string_view name) const;  // in bytes; nullopt: not given, and no default
  std::vector<std::string> list(std::string_view name) const;

 private:
  const BackendOption& option(std::string_view name) const;

  const BackendDescription& description_;
  std::map<std::string, std::string, std::less<>> given_;
};

}  // namespace diffulex_edge
