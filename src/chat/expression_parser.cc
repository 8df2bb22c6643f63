#include "chat/expression_parser.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "chat/failure.h"
#include "chat/limits.h"

namespace diffulex_edge::chat {
namespace {

void check_depth(int depth) {
  if (depth > kMaxDepth) {
    throw Failure("the template is nested deeper than " + std::to_string(kMaxDepth), ErrorCode::kBadFile);
  }
}

// Counts a nesting level while it lives.
class Level {
 public:
  explicit Level(int& count) : count_(count) { check_depth(++count_ / kLevels); }
  ~Level() { --count_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;
  Level(Level&&) = delete;
  Level& operator=(Level&&) = delete;

 private:
  static constexpr int kLevels = 3;  // that a pair of parentheses takes
  int& count_;
};

struct Spelling {
  std::string_view text;
  Operator operation;
};

std::optional<Operator> find_operator(const TokenReader& tokens, std::initializer_list<Spelling> spellings) {
  for (const auto& [text, operation] : spellings) {
    if (tokens.at_operator(text)) {
      return operation;
    }
  }
  return std::nullopt;
}

}  // namespace

ExpressionPointer ExpressionParser::make(ExpressionKind kind) const {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->line = tokens_.current().line;
  return expression;
}

void ExpressionParser::adopt(Expression& parent, std::vector<ExpressionPointer>& list, ExpressionPointer child) {
  if (child != nullptr) {
    parent.depth = std::max(parent.depth, child->depth + 1);
    check_depth(parent.depth);
  }
  list.push_back(std::move(child));
}

template <typename... Operands>
ExpressionPointer ExpressionParser::make(ExpressionKind kind, Operands... operands) const {
  ExpressionPointer expression = make(kind);
  (adopt(*expression, expression->operands, std::move(operands)), ...);
  return expression;
}

ExpressionPointer ExpressionParser::expression() {
  const Level level(open_);
  ExpressionPointer value = parse_or();
  while (tokens_.skip_name("if")) {
    ExpressionPointer condition = parse_or();
    ExpressionPointer otherwise = tokens_.skip_name("else") ? expression() : nullptr;
    value = make(ExpressionKind::kCondition, std::move(condition), std::move(value), std::move(otherwise));
  }
  return value;
}

ExpressionPointer ExpressionParser::without_condition() {
  const Level level(open_);
  return parse_or();
}

ExpressionPointer ExpressionParser::tuple(bool with_condition) {
  const auto next = [&] { return with_condition ? expression() : without_condition(); };
  ExpressionPointer first = next();
  if (!tokens_.at_operator(",")) {
    return first;
  }
  ExpressionPointer result = make(ExpressionKind::kTuple, std::move(first));
  while (tokens_.skip_operator(",")) {
    if (tokens_.at(TokenKind::kBlockEnd) || tokens_.at(TokenKind::kPrintEnd) || tokens_.at_operator(")")) {
      break;
    }
    adopt(*result, result->operands, next());
  }
  return result;
}

ExpressionPointer ExpressionParser::parse_or() {
  ExpressionPointer left = parse_and();
  while (tokens_.skip_name("or")) {
    left = make(ExpressionKind::kOr, std::move(left), parse_and());
  }
  return left;
}

ExpressionPointer ExpressionParser::parse_and() {
  ExpressionPointer left = parse_not();
  while (tokens_.skip_name("and")) {
    left = make(ExpressionKind::kAnd, std::move(left), parse_not());
  }
  return left;
}

ExpressionPointer ExpressionParser::parse_not() {
  const Level level(open_);
  return tokens_.skip_name("not") ? make(ExpressionKind::kNot, parse_not()) : parse_comparison();
}

ExpressionPointer ExpressionParser::parse_comparison() {
  ExpressionPointer left = parse_sum();
  ExpressionPointer result;
  while (true) {
    std::optional<Operator> operation = find_operator(tokens_, {{"==", Operator::kEqual},
                                                                {"!=", Operator::kNotEqual},
                                                                {"<", Operator::kLess},
                                                                {"<=", Operator::kLessEqual},
                                                                {">", Operator::kGreater},
                                                                {">=", Operator::kGreaterEqual}});
    if (tokens_.at_name("in")) {
      operation = Operator::kIn;
    } else if (tokens_.at_name("not") && tokens_.next().kind == TokenKind::kName && tokens_.next().text == "in") {
      tokens_.take();
      operation = Operator::kNotIn;
    }
    if (!operation) {
      return result ? std::move(result) : std::move(left);
    }
    tokens_.take();
    if (!result) {
      result = make(ExpressionKind::kComparison, std::move(left));
    }
    result->operations.push_back(*operation);
    adopt(*result, result->operands, parse_sum());
  }
}

ExpressionPointer ExpressionParser::parse_sum() {
  ExpressionPointer left = parse_concatenation();
  while (const auto operation = find_operator(tokens_, {{"+", Operator::kAdd}, {"-", Operator::kSubtract}})) {
    tokens_.take();
    left = make(ExpressionKind::kArithmetic, std::move(left), parse_concatenation());
    left->operations.push_back(*operation);
  }
  return left;
}

ExpressionPointer ExpressionParser::parse_concatenation() {
  ExpressionPointer first = parse_product();
  if (!tokens_.at_operator("~")) {
    return first;
  }
  ExpressionPointer result = make(ExpressionKind::kConcatenation, std::move(first));
  while (tokens_.skip_operator("~")) {
    adopt(*result, result->operands, parse_product());
  }
  return result;
}

ExpressionPointer ExpressionParser::parse_product() {
  ExpressionPointer left = parse_power();
  while (const auto operation = find_operator(tokens_, {{"*", Operator::kMultiply},
                                                        {"/", Operator::kDivide},
                                                        {"//", Operator::kFloorDivide},
                                                        {"%", Operator::kModulo}})) {
    tokens_.take();
    left = make(ExpressionKind::kArithmetic, std::move(left), parse_power());
    left->operations.push_back(*operation);
  }
  return left;
}

ExpressionPointer ExpressionParser::parse_power() {
  ExpressionPointer left = parse_unary(true);
  while (tokens_.skip_operator("**")) {
    left = make(ExpressionKind::kArithmetic, std::move(left), parse_unary(true));
    left->operations.push_back(Operator::kPower);
  }
  return left;
}

ExpressionPointer ExpressionParser::parse_unary(bool with_filters) {
  const Level level(open_);
  ExpressionPointer value;
  if (tokens_.skip_operator("-")) {
    value = make(ExpressionKind::kNegation, parse_unary(false));
  } else if (tokens_.skip_operator("+")) {
    value = make(ExpressionKind::kPlus, parse_unary(false));
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  return with_filters ? parse_filters_and_tests(std::move(value)) : std::move(value);
}

ExpressionPointer ExpressionParser::parse_primary() {
  switch (tokens_.current().kind) {
    case TokenKind::kName:
      return parse_name();
    case TokenKind::kText:
      return parse_texts();
    case TokenKind::kNumber: {
      ExpressionPointer number = make(ExpressionKind::kConstant);
      number->value = tokens_.take().number;
      return number;
    }
    default:
      break;
  }
  if (tokens_.at_operator("(")) {
    return parse_parentheses();
  }
  if (tokens_.at_operator("[")) {
    return parse_list();
  }
  if (tokens_.at_operator("{")) {
    return parse_dict();
  }
  tokens_.fail_unexpected();
}

ExpressionPointer ExpressionParser::parse_name() {
  ExpressionPointer expression = make(ExpressionKind::kConstant);
  const std::string name = tokens_.take().text;
  if (name == "true" || name == "True") {
    expression->value = Value(true);
  } else if (name == "false" || name == "False") {
    expression->value = Value(false);
  } else if (name == "none" || name == "None") {
    expression->value = Value::none();
  } else {
    expression->kind = ExpressionKind::kName;
    expression->name = name;
  }
  return expression;
}

// Texts beside one another are one.
ExpressionPointer ExpressionParser::parse_texts() {
  ExpressionPointer expression = make(ExpressionKind::kConstant);
  std::string text;
  while (tokens_.at(TokenKind::kText)) {
    text += tokens_.take().text;
  }
  expression->value = Value::text(std::move(text));
  return expression;
}

ExpressionPointer ExpressionParser::parse_parentheses() {
  tokens_.take();
  ExpressionPointer value = tokens_.at_operator(")") ? make(ExpressionKind::kTuple) : tuple();
  tokens_.expect_operator(")");
  return value;
}

ExpressionPointer ExpressionParser::parse_list() {
  ExpressionPointer list = make(ExpressionKind::kList);
  tokens_.take();
  while (!tokens_.skip_operator("]")) {
    adopt(*list, list->operands, expression());
    if (!tokens_.at_operator("]")) {
      tokens_.expect_operator(",");
    }
  }
  return list;
}

ExpressionPointer ExpressionParser::parse_dict() {
  ExpressionPointer dict = make(ExpressionKind::kDict);
  tokens_.take();
  while (!tokens_.skip_operator("}")) {
    adopt(*dict, dict->operands, expression());
    tokens_.expect_operator(":");
    adopt(*dict, dict->operands, expression());
    if (!tokens_.at_operator("}")) {
      tokens_.expect_operator(",");
    }
  }
  return dict;
}

ExpressionPointer ExpressionParser::parse_postfix(ExpressionPointer object) {
  while (true) {
    if (tokens_.at_operator(".")) {
      object = parse_attribute(std::move(object));
    } else if (tokens_.at_operator("[")) {
      object = parse_item(std::move(object));
    } else if (tokens_.at_operator("(")) {
      object = call_of(std::move(object));
    } else {
      return object;
    }
  }
}

ExpressionPointer ExpressionParser::parse_filters_and_tests(ExpressionPointer value) {
  while (true) {
    if (tokens_.skip_operator("|")) {
      value = parse_filter(std::move(value));
    } else if (tokens_.skip_name("is")) {
      value = parse_test(std::move(value));
    } else if (tokens_.at_operator("(")) {
      value = call_of(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPointer ExpressionParser::parse_attribute(ExpressionPointer object) {
  tokens_.take();
  if (tokens_.at(TokenKind::kNumber) && tokens_.current().number.if_integer()) {
    ExpressionPointer key = make(ExpressionKind::kConstant);
    key->value = tokens_.take().number;
    return make(ExpressionKind::kItem, std::move(object), std::move(key));
  }
  ExpressionPointer result = make(ExpressionKind::kAttribute, std::move(object));
  result->name = tokens_.take_name();
  return result;
}

ExpressionPointer ExpressionParser::parse_item(ExpressionPointer object) {
  tokens_.take();
  ExpressionPointer parts[3];
  if (!tokens_.at_operator(":")) {
    parts[0] = expression();
    if (tokens_.skip_operator("]")) {
      return make(ExpressionKind::kItem, std::move(object), std::move(parts[0]));
    }
  }
  for (int i = 1; i < 3 && tokens_.skip_operator(":"); ++i) {
    if (!tokens_.at_operator(":") && !tokens_.at_operator("]")) {
      parts[i] = expression();
    }
  }
  if (tokens_.at_operator(",")) {
    fail_unsupported("several indices in brackets");
  }
  tokens_.expect_operator("]");
  return make(ExpressionKind::kSlice, std::move(object), std::move(parts[0]), std::move(parts[1]), std::move(parts[2]));
}

void ExpressionParser::parse_arguments(Expression& call) {
  tokens_.expect_operator("(");
  while (!tokens_.skip_operator(")")) {
    if (tokens_.at_operator("*") || tokens_.at_operator("**")) {
      fail_unsupported("'" + tokens_.current().text + "' before an argument");
    }
    const bool is_named =
        tokens_.at(TokenKind::kName) && tokens_.next().kind == TokenKind::kOperator && tokens_.next().text == "=";
    if (is_named) {
      std::string name = tokens_.take_name();
      tokens_.take();
      ExpressionPointer value = expression();
      call.depth = std::max(call.depth, value->depth + 1);
      check_depth(call.depth);
      call.named.push_back({std::move(name), std::move(value)});
    } else if (!call.named.empty()) {
      tokens_.fail_unexpected();
    } else {
      adopt(call, call.positional, expression());
    }
    if (!tokens_.at_operator(")")) {
      tokens_.expect_operator(",");
    }
  }
}

ExpressionPointer ExpressionParser::call_of(ExpressionPointer called) {
  ExpressionPointer call = make(ExpressionKind::kCall, std::move(called));
  parse_arguments(*call);
  return call;
}

ExpressionPointer ExpressionParser::filters(ExpressionPointer input) {
  while (tokens_.skip_operator("|")) {
    input = parse_filter(std::move(input));
  }
  return input;
}

ExpressionPointer ExpressionParser::first_filter() { return filters(parse_filter(nullptr)); }

ExpressionPointer ExpressionParser::parse_filter(ExpressionPointer input) {
  ExpressionPointer filter = make(ExpressionKind::kFilter, std::move(input));
  filter->name = tokens_.take_name();
  if (tokens_.at_operator("(")) {
    parse_arguments(*filter);
  }
  return filter;
}

ExpressionPointer ExpressionParser::parse_test(ExpressionPointer value) {
  const bool negated = tokens_.skip_name("not");
  ExpressionPointer test = make(ExpressionKind::kTest, std::move(value));
  test->name = tokens_.take_name();
  const TokenKind kind = tokens_.current().kind;
  const bool is_word =
      kind == TokenKind::kName && !tokens_.at_name("else") && !tokens_.at_name("or") && !tokens_.at_name("and");
  if (tokens_.at_operator("(")) {
    parse_arguments(*test);
  } else if (is_word || kind == TokenKind::kText || kind == TokenKind::kNumber || tokens_.at_operator("[") ||
             tokens_.at_operator("{")) {
    if (tokens_.at_name("is")) {
      tokens_.fail_unexpected();
    }
    adopt(*test, test->positional, parse_postfix(parse_primary()));
  }
  return negated ? make(ExpressionKind::kNot, std::move(test)) : std::move(test);
}

}  // namespace diffulex_edge::chat
