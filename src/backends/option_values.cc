#include "backends/option_values.h"

#include <algorithm>
#include <charconv>

#include "core/join.h"
#include "core/size_text.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

std::int64_t parse_count(const BackendOption& option, const std::string& text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < option.least) {
    throw Error(ErrorCode::kInvalidArgument, spoken_name(option),
                "'" + text + "' is not a whole number of at least " + std::to_string(option.least));
  }
  return value;
}

void check_choice(const BackendOption& option, const std::string& text, const std::vector<std::string>& choices) {
  if (std::ranges::find(choices, text) != choices.end()) {
    return;
  }
  const bool are_two = choices.size() == 2;
  throw Error(ErrorCode::kInvalidArgument, spoken_name(option),
              "'" + text + "' is " + (are_two ? "neither " : "not one of ") + join(choices, are_two ? " nor " : ", "));
}

std::vector<std::string> values_of(const std::vector<BackendOption::Choice>& choices) {
  std::vector<std::string> values;
  for (const BackendOption::Choice& choice : choices) {
    values.push_back(choice.value);
  }
  return values;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (std::string_view rest = text;;) {
    const std::size_t comma = rest.find(',');
    parts.emplace_back(rest.substr(0, comma));
    if (comma == std::string_view::npos) {
      return parts;
    }
    rest.remove_prefix(comma + 1);
  }
}

}  // namespace

std::string spoken_name(const BackendOption& option) {
  std::string name = option.name;
  std::ranges::replace(name, '_', ' ');
  return name;
}

void check_option_value(const BackendOption& option, const std::string& text) {
  switch (option.type) {
    case BackendOption::Type::kChoice:
      check_choice(option, text, values_of(option.choices));
      break;
    case BackendOption::Type::kFlag:
      check_choice(option, text, {"false", "true"});
      break;
    case BackendOption::Type::kCount:
      parse_count(option, text);
      break;
    case BackendOption::Type::kSize:
      parse_size(spoken_name(option), text);
      break;
    case BackendOption::Type::kText:
    case BackendOption::Type::kList:
    case BackendOption::Type::kPython:
      break;
  }
}

void check_options(const BackendDescription& description, const std::map<std::string, std::string>& given) {
  for (const auto& [name, value] : given) {
    const auto found = std::ranges::find(description.options, name, &BackendOption::name);
    if (found == description.options.end()) {
      throw Error(ErrorCode::kInvalidArgument, "backend option '" + name + "'",
                  "is not known to the " + description.title + " backend");
    }
    check_option_value(*found, value);
  }
}

OptionValues::OptionValues(const BackendDescription& description, const std::map<std::string, std::string>& given)
    : description_(description), given_(given.begin(), given.end()) {
  check_options(description, given);
}

const BackendOption& OptionValues::option(std::string_view name) const {
  const auto found = std::ranges::find(description_.options, name, &BackendOption::name);
  if (found == description_.options.end()) {
    throw Error(ErrorCode::kInternal, "backend option '" + std::string(name) + "'", "is not described");
  }
  return *found;
}

bool OptionValues::has(std::string_view name) const {
  return std::ranges::find(description_.options, name, &BackendOption::name) != description_.options.end();
}

std::string OptionValues::text(std::string_view name) const {
  const auto found = given_.find(name);
  return found != given_.end() ? found->second : option(name).default_value;
}

std::int64_t OptionValues::count(std::string_view name) const { return parse_count(option(name), text(name)); }

std::optional<std::int64_t> OptionValues::size(std::string_view name) const {
  const std::string value = text(name);
  return value.empty() ? std::nullopt : std::optional(parse_size(spoken_name(option(name)), value));
}

std::vector<std::string> OptionValues::list(std::string_view name) const {
  const auto found = given_.find(name);
  const std::string& value = found != given_.end() ? found->second : option(name).default_value;
  return found == given_.end() && value.empty() ? std::vector<std::string>() : split(value);
}

}  // namespace diffulex_edge
