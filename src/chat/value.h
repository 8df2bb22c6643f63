// The values that a template computes with: Python's, as far as templates see them.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace diffulex_edge::chat {

struct Arguments;
struct Dict;
struct Function;
struct List;
struct Loop;
struct Namespace;

struct Undefined {
  std::shared_ptr<const std::string> why;  // "'name' is undefined"
};
struct None {};
struct Text {
  std::string bytes;    // valid UTF-8
  bool markup = false;  // made by the filter `safe`: `+` then escapes the other side for HTML
};

// Copies share what they hold. Text, lists and dicts never change once they are made (an iterator's position does).
class Value {
 public:
  Value() = default;  // undefined
  template <typename T>
  explicit Value(T value) : storage_(std::move(value)) {}
  static Value undefined(std::string why);
  static Value none() { return Value(None{}); }
  static Value text(std::string bytes, bool markup = false);
  static Value integer(std::int64_t value) { return Value(value); }

  bool is_undefined() const { return holds<Undefined>(); }
  bool is_none() const { return holds<None>(); }
  bool is_bool() const { return holds<bool>(); }
  bool is_text() const { return holds<std::shared_ptr<const Text>>(); }
  bool is_float() const { return holds<double>(); }

  const std::string* if_text() const;
  bool is_markup() const;
  std::shared_ptr<List> if_list() const { return pointer<std::shared_ptr<List>>(); }
  std::shared_ptr<const Dict> if_dict() const { return pointer<std::shared_ptr<const Dict>>(); }
  std::shared_ptr<Namespace> if_namespace() const { return pointer<std::shared_ptr<Namespace>>(); }
  std::shared_ptr<const Function> if_function() const { return pointer<std::shared_ptr<const Function>>(); }
  std::shared_ptr<Loop> if_loop() const { return pointer<std::shared_ptr<Loop>>(); }
  std::optional<std::int64_t> if_integer() const;  // booleans too, as in Python
  std::optional<double> if_number() const;         // integers and booleans too
  std::int64_t whole() const { return if_integer().value_or(0); }
  double number() const { return if_number().value_or(0); }
  std::string why_undefined() const;  // empty where it isn't

  bool truth() const;
  std::string type_name() const;  // Python's: "str"
  int nesting() const;            // of lists and dicts: 0 for a number
  std::uint64_t weight() const;   // how long it takes to look at all of it: 1 for a number
  // The same object, by Python's `is`.
  bool same_as(const Value& other) const;

 private:
  template <typename T>
  bool holds() const {
    return std::holds_alternative<T>(storage_);
  }
  template <typename T>
  T pointer() const {
    const T* found = std::get_if<T>(&storage_);
    return found == nullptr ? nullptr : *found;
  }

  std::variant<Undefined, None, bool, std::int64_t, double, std::shared_ptr<const Text>, std::shared_ptr<List>,
               std::shared_ptr<const Dict>, std::shared_ptr<Namespace>, std::shared_ptr<const Function>,
               std::shared_ptr<Loop>>
      storage_;
};

enum class ListKind { kList, kTuple, kRange, kView, kIterator };

struct List {
  ListKind kind = ListKind::kList;
  std::vector<Value> items;
  std::string name;          // of a view or range, as Python prints it: "dict_keys", "range(0, 3)"
  std::size_t consumed = 0;  // of an iterator: what it gave already is gone
  int nesting = 1;
  std::uint64_t weight = 1;
};
// Throws Failure where it has too many items, is nested too deep or takes too long to look at.
Value make_list(std::vector<Value> items, ListKind kind = ListKind::kList, std::string name = {});

// In the order of insertion.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  std::unordered_map<std::string, std::size_t> positions;  // of keys that are text
  int nesting = 1;
  std::uint64_t weight = 1;

  const Value* find(const Value& key) const;
  const Value* find(const std::string& key) const;
  // A key that is there keeps its place. Throws Failure where it is nested too deep or the key can't be one.
  void set(const Value& key, const Value& value);
};
Value make_dict(Dict dict);
// Throws Failure for what can't be a key: a list, a dict.
void check_hashable(const Value& key);

// What templates can change. The context of a rendering keeps them, and empties them in the end: cycles would stay.
struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;

  const Value* find(std::string_view name) const;
  void set(const std::string& name, const Value& value);
};

// A macro, a method with its object, or a global function.
struct Function {
  std::string name;
  std::function<Value(const Arguments&)> call;
  int nesting = 0;
};
Value make_function(std::string name, std::function<Value(const Arguments&)> call, int nesting = 0);

// The variable `loop`. Items are pulled when they are asked for, since a condition may read what the body changed.
struct Loop {
  std::function<std::optional<Value>()> pull;  // none: the loop has ended
  std::deque<Value> queued;                    // pulled early
  std::optional<Value> before;
  std::optional<Value> current;
  std::optional<Value> changed;  // what `changed` was last called with
  std::int64_t index0 = -1;
  std::optional<std::int64_t> known_length;

  bool advance();
  std::optional<Value> peek();
  std::int64_t length();
};

// Of a call: what is given by position and by name.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Reads a call's arguments one after another in the order of the parameters.
class ArgumentReader {
 public:
  ArgumentReader(std::string function, const Arguments& arguments)
      : function_(std::move(function)), arguments_(arguments) {}
  std::optional<Value> next(std::string_view name);
  std::optional<Value> named(std::string_view name);  // by name only
  Value require(std::string_view name);
  Value next_or(std::string_view name, Value fallback) { return next(name).value_or(std::move(fallback)); }
  // Throws Failure where arguments are left.
  void finish() const;

 private:
  std::string function_;
  const Arguments& arguments_;
  std::size_t position_ = 0;
  std::size_t named_ = 0;
};

}  // namespace diffulex_edge::chat
