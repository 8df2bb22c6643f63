#include "chat/json_values.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "chat/failure.h"
#include "chat/limits.h"
#include "core/json.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge::chat {
namespace {

class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return add(Value::none()); }
  bool boolean(bool value) override { return add(Value(value)); }
  bool number_integer(number_integer_t value) override { return add(Value::integer(value)); }
  bool number_unsigned(number_unsigned_t value) override {
    if (!std::in_range<std::int64_t>(value)) {
      throw Failure("an integer of more than 64 bits");
    }
    return add(Value::integer(static_cast<std::int64_t>(value)));
  }
  bool number_float(number_float_t value, const string_t& text) override {
    if (text.find_first_of(".eE") == string_t::npos) {
      throw Failure("an integer of more than 64 bits");
    }
    return add(Value(value));
  }
  bool string(string_t& value) override { return add(Value::text(value)); }
  bool binary(binary_t& /*value*/) override { return false; }
  bool start_object(std::size_t /*count*/) override { return open(true); }
  bool key(string_t& value) override {
    if (open_.back().dict.find(value) != nullptr) {
      throw Failure("the key '" + value + "' appears twice");
    }
    open_.back().key = value;
    return true;
  }
  bool end_object() override {
    Value value = make_dict(std::move(open_.back().dict));
    open_.pop_back();
    return add(std::move(value));
  }
  bool start_array(std::size_t /*count*/) override { return open(false); }
  bool end_array() override {
    Value value = make_list(std::move(open_.back().items));
    open_.pop_back();
    return add(std::move(value));
  }
  bool parse_error(std::size_t /*position*/, const std::string& /*token*/,
                   const nlohmann::json::exception& error) override {
    throw Failure("not valid JSON: " + json_error_text(error));
  }

  Value result;

 private:
  struct Container {
    bool is_dict = false;
    std::string key;
    Dict dict;
    std::vector<Value> items;
  };

  bool open(bool is_dict) {
    constexpr std::size_t kMaxJsonDepth = 64;
    if (open_.size() == kMaxJsonDepth) {
      throw Failure("the JSON is nested deeper than " + std::to_string(kMaxJsonDepth));
    }
    open_.emplace_back().is_dict = is_dict;
    return true;
  }

  bool add(Value value) {
    if (open_.empty()) {
      result = std::move(value);
    } else if (open_.back().is_dict) {
      open_.back().dict.set(Value::text(open_.back().key), value);
    } else {
      open_.back().items.push_back(std::move(value));
    }
    return true;
  }

  std::vector<Container> open_;
};

}  // namespace

Value parse_json_value(std::string_view json, const std::string& name) {
  try {
    check_text(json.size());
    if (json.find('\0') != std::string_view::npos) {  // nlohmann-json takes it for the end
      throw Failure("not valid JSON: it holds a NUL byte");
    }
    Builder builder;
    nlohmann::json::sax_parse(json.begin(), json.end(), &builder);
    return builder.result;
  } catch (const Failure& failure) {
    throw Error(ErrorCode::kInvalidArgument, name, failure.what());
  }
}

}  // namespace diffulex_edge::chat
