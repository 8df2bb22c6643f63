#include "chat/value.h"

#include <algorithm>
#include <cmath>

#include "chat/failure.h"
#include "chat/limits.h"
#include "chat/operators.h"

namespace diffulex_edge::chat {
namespace {

void check_nesting(int nesting) {
  if (nesting > kMaxNesting) {
    throw Failure("values are nested deeper than " + std::to_string(kMaxNesting));
  }
}

void check_weight(std::uint64_t weight) {
  if (weight > kMaxWeight) {
    throw Failure("a list or dict would be too large");
  }
}

bool list_truth(const List& list) { return list.kind == ListKind::kIterator || !list.items.empty(); }

std::string list_type_name(const List& list) {
  switch (list.kind) {
    case ListKind::kList:
      return "list";
    case ListKind::kTuple:
      return "tuple";
    case ListKind::kRange:
      return "range";
    case ListKind::kView:
      return list.name;
    case ListKind::kIterator:
      break;
  }
  return "generator";
}

}  // namespace

Value Value::undefined(std::string why) {
  return Value(Undefined{std::make_shared<const std::string>(std::move(why))});
}

Value Value::text(std::string bytes, bool markup) {
  return Value(std::shared_ptr<const Text>(std::make_shared<Text>(Text{std::move(bytes), markup})));
}

const std::string* Value::if_text() const {
  const auto* found = std::get_if<std::shared_ptr<const Text>>(&storage_);
  return found == nullptr ? nullptr : &(*found)->bytes;
}

bool Value::is_markup() const {
  const auto* found = std::get_if<std::shared_ptr<const Text>>(&storage_);
  return found != nullptr && (*found)->markup;
}

std::optional<std::int64_t> Value::if_integer() const {
  if (const bool* flag = std::get_if<bool>(&storage_)) {
    return *flag ? 1 : 0;
  }
  const std::int64_t* number = std::get_if<std::int64_t>(&storage_);
  return number == nullptr ? std::nullopt : std::optional(*number);
}

std::optional<double> Value::if_number() const {
  if (const double* number = std::get_if<double>(&storage_)) {
    return *number;
  }
  const auto integer = if_integer();
  return integer ? std::optional(static_cast<double>(*integer)) : std::nullopt;
}

std::string Value::why_undefined() const {
  const Undefined* found = std::get_if<Undefined>(&storage_);
  return found == nullptr || found->why == nullptr ? std::string() : *found->why;
}

bool Value::truth() const {
  if (is_undefined() || is_none()) {
    return false;
  }
  if (const auto number = if_number()) {
    return *number != 0;
  }
  if (const std::string* bytes = if_text()) {
    return !bytes->empty();
  }
  if (const auto list = if_list()) {
    return list_truth(*list);
  }
  if (const auto dict = if_dict()) {
    return !dict->items.empty();
  }
  return true;
}

std::string Value::type_name() const {
  if (const auto list = if_list()) {
    return list_type_name(*list);
  }
  if (const auto function = if_function()) {
    return "function";
  }
  static constexpr const char* kNames[] = {"Undefined", "NoneType", "bool",      "int",      "float",      "str",
                                           "list",      "dict",     "Namespace", "function", "LoopContext"};
  return is_markup() ? "Markup" : kNames[storage_.index()];
}

int Value::nesting() const {
  if (const auto list = if_list()) {
    return list->nesting;
  }
  if (const auto dict = if_dict()) {
    return dict->nesting;
  }
  const auto function = if_function();
  return function ? function->nesting : 0;
}

bool Value::same_as(const Value& other) const {
  if (storage_.index() != other.storage_.index()) {
    return false;
  }
  if (if_list() || if_dict() || if_namespace() || if_function() || if_loop()) {
    return if_list() == other.if_list() && if_dict() == other.if_dict() && if_namespace() == other.if_namespace() &&
           if_function() == other.if_function() && if_loop() == other.if_loop();
  }
  return equal(*this, other);
}

std::uint64_t Value::weight() const {
  if (const auto list = if_list()) {
    return list->weight;
  }
  if (const auto dict = if_dict()) {
    return dict->weight;
  }
  constexpr std::size_t kBytes = 64;  // of text, that count as a number
  const std::string* text = if_text();
  return text == nullptr ? 1 : 1 + text->size() / kBytes;
}

Value make_list(std::vector<Value> items, ListKind kind, std::string name) {
  check_items(items.size());
  auto list = std::make_shared<List>();
  for (const Value& item : items) {
    list->nesting = std::max(list->nesting, 1 + item.nesting());
    list->weight += item.weight();
    check_weight(list->weight);
  }
  check_nesting(list->nesting);
  list->kind = kind;
  list->items = std::move(items);
  list->name = std::move(name);
  return Value(std::move(list));
}

const Value* Dict::find(const std::string& key) const {
  const auto found = positions.find(key);
  return found == positions.end() ? nullptr : &items[found->second].second;
}

const Value* Dict::find(const Value& key) const {
  if (const std::string* bytes = key.if_text()) {
    return find(*bytes);
  }
  if (positions.size() == items.size()) {
    return nullptr;
  }
  const auto found = std::ranges::find_if(items, [&](const auto& item) { return equal(item.first, key); });
  return found == items.end() ? nullptr : &found->second;
}

void check_hashable(const Value& key) {
  const auto list = key.if_list();
  if (key.if_dict() || (list && (list->kind == ListKind::kList || list->kind == ListKind::kView))) {
    throw Failure("a " + key.type_name() + " can't be the key of a dict");
  }
}

void Dict::set(const Value& key, const Value& value) {
  check_hashable(key);
  check_items(items.size() + 1);
  nesting = std::max({nesting, 1 + value.nesting(), 1 + key.nesting()});
  check_nesting(nesting);
  weight += key.weight() + value.weight();
  check_weight(weight);
  if (const Value* found = find(key)) {
    const auto position = std::ranges::find_if(items, [&](auto& item) { return &item.second == found; });
    position->second = value;
    return;
  }
  if (const std::string* bytes = key.if_text()) {
    positions.emplace(*bytes, items.size());
  }
  items.emplace_back(key, value);
}

Value make_dict(Dict dict) { return Value(std::shared_ptr<const Dict>(std::make_shared<Dict>(std::move(dict)))); }

const Value* Namespace::find(std::string_view name) const {
  const auto found = std::ranges::find_if(attributes, [&](const auto& attribute) { return attribute.first == name; });
  return found == attributes.end() ? nullptr : &found->second;
}

void Namespace::set(const std::string& name, const Value& value) {
  if (name.starts_with("_")) {
    throw Failure("a namespace's attribute may not begin with an underscore: '" + name + "'");
  }
  const auto found = std::ranges::find_if(attributes, [&](const auto& attribute) { return attribute.first == name; });
  if (found == attributes.end()) {
    if (attributes.size() == kMaxAttributes) {
      throw Failure("a namespace has more than " + std::to_string(kMaxAttributes) + " attributes");
    }
    attributes.emplace_back(name, value);
  } else {
    found->second = value;
  }
}

Value make_function(std::string name, std::function<Value(const Arguments&)> call, int nesting) {
  check_nesting(nesting);
  auto function = std::make_shared<Function>();
  function->name = std::move(name);
  function->call = std::move(call);
  function->nesting = nesting;
  return Value(std::shared_ptr<const Function>(std::move(function)));
}

bool Loop::advance() {
  std::optional<Value> next = peek();
  if (!next) {
    return false;
  }
  queued.pop_front();
  ++index0;
  before = std::exchange(current, std::move(next));
  return true;
}

std::optional<Value> Loop::peek() {
  if (queued.empty()) {
    std::optional<Value> next = pull ? pull() : std::nullopt;
    if (!next) {
      return std::nullopt;
    }
    queued.push_back(std::move(*next));
  }
  return queued.front();
}

std::int64_t Loop::length() {
  if (!known_length) {
    while (pull) {
      std::optional<Value> next = pull();
      if (!next) {
        break;
      }
      queued.push_back(std::move(*next));
    }
    known_length = index0 + 1 + static_cast<std::int64_t>(queued.size());
  }
  return *known_length;
}

std::optional<Value> ArgumentReader::next(std::string_view name) {
  const std::size_t position = position_++;
  return position < arguments_.positional.size() ? arguments_.positional[position] : named(name);
}

std::optional<Value> ArgumentReader::named(std::string_view name) {
  for (const auto& [given, value] : arguments_.named) {
    if (given == name) {
      ++named_;
      return value;
    }
  }
  return std::nullopt;
}

Value ArgumentReader::require(std::string_view name) {
  std::optional<Value> value = next(name);
  if (!value) {
    throw Failure("'" + function_ + "' needs the argument '" + std::string(name) + "'");
  }
  return std::move(*value);
}

void ArgumentReader::finish() const {
  if (position_ < arguments_.positional.size() || named_ < arguments_.named.size()) {
    throw Failure("'" + function_ + "' has arguments that it doesn't take");
  }
}

}  // namespace diffulex_edge::chat
