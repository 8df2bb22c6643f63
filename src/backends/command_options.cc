#include "backends/command_options.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "core/join.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

std::string flag_of(const std::string& name) {
  std::string flag = "--" + name;
  std::ranges::replace(flag, '_', '-');
  return flag;
}

// "iOS16, iOS17 or iOS18 (default): what they are", or "all (default); some: what that is".
std::string describe_choices(const BackendOption& option) {
  const auto speaks_for_itself = [](const BackendOption::Choice& choice) { return choice.help.empty(); };
  const bool are_plain = std::ranges::all_of(option.choices, speaks_for_itself);
  std::vector<std::string> words;
  std::string text;
  for (const BackendOption::Choice& choice : option.choices) {
    std::string word = choice.value + (choice.value == option.default_value ? " (default)" : "");
    text += (text.empty() ? "" : "; ") + word + (choice.help.empty() ? "" : ": " + choice.help);
    words.push_back(std::move(word));
  }
  if (are_plain) {
    text = join(words, ", ", " or ");
  }
  return text + (option.help.empty() ? "" : ": " + option.help);
}

std::string describe(const BackendOption& option) {
  if (option.type == BackendOption::Type::kChoice) {
    return describe_choices(option);
  }
  return option.help + (option.default_value.empty() ? "" : " (default " + option.default_value + ")");
}

std::string by_backend(const std::vector<BackendDescription>& backends,
                       const std::function<std::string(const BackendDescription&)>& describe_one) {
  std::string text;
  for (const BackendDescription& backend : backends) {
    const std::string words = describe_one(backend);
    if (!words.empty()) {
      text += (text.empty() ? "" : "; ") + backend.name + ": " + words;
    }
  }
  return text;
}

bool has_option(const BackendDescription& backend, const std::string& name) {
  return std::ranges::find(backend.options, name, &BackendOption::name) != backend.options.end();
}

}  // namespace

std::vector<CommandOption> command_options(const std::vector<BackendDescription>& backends) {
  std::vector<CommandOption> options;
  for (const BackendDescription& backend : backends) {
    for (const BackendOption& option : backend.options) {
      const auto same = std::ranges::find(options, option.name, &CommandOption::name);
      if (same != options.end()) {
        same->group += ", " + backend.title;
        same->help += "; " + backend.name + ": " + describe(option);
        continue;
      }
      const bool is_shared = std::ranges::count_if(backends, [&](const BackendDescription& other) {
                               return has_option(other, option.name);
                             }) > 1;
      options.push_back({.flag = flag_of(option.name),
                         .name = option.name,
                         .group = backend.title,
                         .help = (is_shared ? backend.name + ": " : "") + describe(option),
                         .is_flag = option.type == BackendOption::Type::kFlag,
                         .is_list = option.type == BackendOption::Type::kList});
    }
  }
  return options;
}

std::map<std::string, std::string> options_of(const BackendDescription& backend,
                                              const std::vector<BackendDescription>& backends,
                                              std::map<std::string, std::string> given) {
  for (const auto& [name, value] : given) {
    if (has_option(backend, name)) {
      continue;
    }
    std::vector<std::string> titles;
    std::vector<std::string> flags;
    for (const BackendDescription& other : backends) {
      if (has_option(other, name)) {
        titles.push_back(other.title);
        flags.push_back("--backend " + other.name);
      }
    }
    throw Error(ErrorCode::kInvalidArgument, flag_of(name),
                "belongs to the " + join(titles, ", ", " and ") + (titles.size() > 1 ? " backends" : " backend"),
                "add " + join(flags, ", ", " or ") + ", or leave it out");
  }
  return given;
}

std::string backend_choices(const std::vector<BackendDescription>& backends) {
  std::vector<std::string> names;
  for (const BackendDescription& backend : backends) {
    names.push_back(backend.name + (names.empty() ? " (default)" : ""));
  }
  return join(names, ", ", " or ");
}

std::string describe_outputs(const std::vector<BackendDescription>& backends) {
  return by_backend(backends, [](const BackendDescription& backend) { return backend.output; });
}

std::string describe_activation_dtypes(const std::vector<BackendDescription>& backends) {
  return by_backend(backends, [](const BackendDescription& backend) { return backend.activation_dtypes; });
}

std::string describe_lengths(const std::vector<BackendDescription>& backends) {
  return by_backend(backends, [](const BackendDescription& backend) -> std::string {
    switch (backend.lengths) {
      case LengthSupport::kUpTo:
        return "the longest one, shorter ones run too";
      case LengthSupport::kExact:
        return "exactly that";
      case LengthSupport::kAny:
        break;
    }
    return "exactly that, several (64,128), or a range (8..512)";
  });
}

}  // namespace diffulex_edge
