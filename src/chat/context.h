// What all code of one rendering shares.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "chat/limits.h"
#include "chat/value.h"

namespace diffulex_edge::chat {

class Context {
 public:
  explicit Context(std::chrono::system_clock::time_point time) : now(time) {}
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  Context(Context&&) = delete;
  Context& operator=(Context&&) = delete;
  ~Context() {
    for (const auto& each : namespaces_) {
      each->attributes.clear();
    }
  }

  // Counts steps for its size, if `value` was just made.
  Value charge(Value value);
  // Counts steps for walking a text letter by letter, as filters and methods do, which takes many times what copying it
  // does.
  void charge_letters(const Value& value);
  Value make_namespace(const Arguments& arguments);

  Budget budget;
  const std::chrono::system_clock::time_point now;

 private:
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

// The pairs that `dict(...)` and `namespace(...)` are made of.
std::vector<std::pair<Value, Value>> dict_items(const Arguments& arguments);

// `range`, `namespace`, `raise_exception` and the like: what every template can call. Undefined for another name.
Value global_function(Context& context, const std::string& name);

}  // namespace diffulex_edge::chat
