// Expressions of a template, by Jinja's precedence.
#pragma once

#include <string>
#include <vector>

#include "chat/syntax.h"
#include "chat/token_reader.h"

namespace diffulex_edge::chat {

// All throw Failure for what is wrong, not supported or nested too deep.
class ExpressionParser {
 public:
  explicit ExpressionParser(TokenReader& tokens) : tokens_(tokens) {}

  ExpressionPointer expression();
  ExpressionPointer without_condition();  // a following `if` is not its own
  // An expression, or a tuple without parentheses.
  ExpressionPointer tuple(bool with_condition = true);
  // NAME | NAME(...) ..., applied to `input`. Without `input`, the first name follows at once.
  ExpressionPointer filters(ExpressionPointer input);
  ExpressionPointer first_filter();
  ExpressionPointer call_of(ExpressionPointer called);

 private:
  ExpressionPointer parse_or();
  ExpressionPointer parse_and();
  ExpressionPointer parse_not();
  ExpressionPointer parse_comparison();
  ExpressionPointer parse_sum();
  ExpressionPointer parse_concatenation();
  ExpressionPointer parse_product();
  ExpressionPointer parse_power();
  ExpressionPointer parse_unary(bool with_filters);
  ExpressionPointer parse_primary();
  ExpressionPointer parse_name();
  ExpressionPointer parse_texts();
  ExpressionPointer parse_parentheses();
  ExpressionPointer parse_list();
  ExpressionPointer parse_dict();
  ExpressionPointer parse_postfix(ExpressionPointer object);
  ExpressionPointer parse_filters_and_tests(ExpressionPointer value);
  ExpressionPointer parse_attribute(ExpressionPointer object);
  ExpressionPointer parse_item(ExpressionPointer object);
  ExpressionPointer parse_filter(ExpressionPointer input);
  ExpressionPointer parse_test(ExpressionPointer value);
  void parse_arguments(Expression& call);

  ExpressionPointer make(ExpressionKind kind) const;
  // With the operands given, the depth is set.
  template <typename... Operands>
  ExpressionPointer make(ExpressionKind kind, Operands... operands) const;
  static void adopt(Expression& parent, std::vector<ExpressionPointer>& list, ExpressionPointer child);

  TokenReader& tokens_;
  int open_ = 0;  // expressions inside one another
};

}  // namespace diffulex_edge::chat
