// Backends by name: the library's own, and those that a program adds.

#include <algorithm>
#include <mutex>
#include <set>
#include <utility>

#include "backends/coreml/description.h"
#include "backends/option_values.h"
#include "backends/qnn/description.h"
#include "backends/xnnpack/description.h"
#include "core/join.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

// In the order of the support matrix.
constexpr auto kOwnBackends = {xnnpack::add_to, coreml::add_to, qnn::add_to};

[[noreturn]] void refuse(const BackendDescription& backend, const std::string& what) {
  throw Error(ErrorCode::kInvalidArgument, "backend '" + backend.name + "'", what);
}

void check_description(const BackendDescription& backend) {
  std::set<std::string> names;
  for (const BackendOption& option : backend.options) {
    if (option.name.empty() || !names.insert(option.name).second) {
      refuse(backend, "describes the option '" + option.name + "' twice, or without a name");
    }
    if (option.type == BackendOption::Type::kChoice && option.choices.empty()) {
      refuse(backend, "describes no choices for the option '" + option.name + "'");
    }
    if (!option.default_value.empty()) {
      check_option_value(option, option.default_value);
    }
  }
  for (const ArtefactReader& reader : backend.artefacts) {
    if (!reader.match || !reader.inspect) {
      refuse(backend, "describes " + reader.what + " without functions that recognise and read it");
    }
  }
}

enum class Form { kFlag, kList, kValue };

Form form_of(const BackendOption& option) {
  switch (option.type) {
    case BackendOption::Type::kFlag:
      return Form::kFlag;
    case BackendOption::Type::kList:
      return Form::kList;
    case BackendOption::Type::kText:
    case BackendOption::Type::kChoice:
    case BackendOption::Type::kCount:
    case BackendOption::Type::kSize:
    case BackendOption::Type::kPython:
      break;
  }
  return Form::kValue;
}

// A command has one flag for all options of a name.
void check_same_form(const BackendDescription& backend, const BackendDescription& other) {
  for (const BackendOption& option : backend.options) {
    const auto found = std::ranges::find(other.options, option.name, &BackendOption::name);
    if (found != other.options.end() && form_of(*found) != form_of(option)) {
      refuse(backend, "has the option '" + option.name + "', which backend '" + other.name +
                          "' has in another form (a flag, a list or one value)");
    }
  }
}

}  // namespace

std::string_view to_string(SupportLevel level) {
  switch (level) {
    case SupportLevel::kFull:
      return "full";
    case SupportLevel::kPartial:
      return "partial";
    case SupportLevel::kUnsupported:
      break;
  }
  return "unsupported";
}

std::string_view to_string(BackendOption::Type type) {
  switch (type) {
    case BackendOption::Type::kText:
      return "text";
    case BackendOption::Type::kChoice:
      return "choice";
    case BackendOption::Type::kCount:
      return "count";
    case BackendOption::Type::kSize:
      return "size";
    case BackendOption::Type::kFlag:
      return "flag";
    case BackendOption::Type::kList:
      return "list";
    case BackendOption::Type::kPython:
      break;
  }
  return "python";
}

std::string_view to_string(LengthSupport lengths) {
  switch (lengths) {
    case LengthSupport::kUpTo:
      return "up_to";
    case LengthSupport::kExact:
      return "exact";
    case LengthSupport::kAny:
      break;
  }
  return "any";
}

struct BackendRegistry::State {
  struct Entry {
    BackendDescription description;
    Factory factory;
    bool has_options = false;  // that are described
  };
  mutable std::mutex mutex;
  std::vector<Entry> entries;

  void add(Entry entry) {
    const BackendDescription& backend = entry.description;
    if (!entry.factory) {
      refuse(backend, "has no factory");
    }
    check_description(backend);
    const std::scoped_lock lock(mutex);
    for (const Entry& other : entries) {
      if (other.description.name == backend.name) {
        refuse(backend, "is registered already");
      }
      check_same_form(backend, other.description);
    }
    entries.push_back(std::move(entry));
  }

  Entry find(std::string_view name) const {
    const std::scoped_lock lock(mutex);
    std::set<std::string> known;
    for (const Entry& entry : entries) {
      if (entry.description.name == name) {
        return entry;
      }
      known.insert(entry.description.name);
    }
    throw Error(ErrorCode::kUnsupported, "backend '" + std::string(name) + "'",
                "this build has only " + join(known, ", "));
  }
};

BackendRegistry::BackendRegistry() : state_(std::make_shared<State>()) {
  for (const auto& add_to : kOwnBackends) {
    add_to(*this);
  }
}

BackendRegistry& BackendRegistry::instance() {
  static BackendRegistry registry;
  return registry;
}

void BackendRegistry::register_backend(BackendDescription description, Factory factory) {
  state_->add({.description = std::move(description), .factory = std::move(factory), .has_options = true});
}

void BackendRegistry::register_backend(std::string name, Factory factory) {
  std::string title = name;
  state_->add({.description = {.name = std::move(name), .title = std::move(title), .output = "a file"},
               .factory = std::move(factory)});
}

std::unique_ptr<EdgeBackend> BackendRegistry::create(std::string_view name, BackendConfig config) const {
  const State::Entry entry = state_->find(name);
  if (entry.has_options) {
    check_options(entry.description, config.backend_options);
  }
  return entry.factory(std::move(config));
}

std::vector<std::string> BackendRegistry::list() const {
  const std::scoped_lock lock(state_->mutex);
  std::vector<std::string> names;
  for (const State::Entry& entry : state_->entries) {
    names.push_back(entry.description.name);
  }
  std::ranges::sort(names);
  return names;
}

BackendDescription BackendRegistry::describe(std::string_view name) const { return state_->find(name).description; }

std::vector<BackendDescription> BackendRegistry::descriptions() const {
  const std::scoped_lock lock(state_->mutex);
  std::vector<BackendDescription> descriptions;
  for (const State::Entry& entry : state_->entries) {
    descriptions.push_back(entry.description);
  }
  return descriptions;
}

}  // namespace diffulex_edge
