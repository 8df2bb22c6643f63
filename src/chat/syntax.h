// The syntax tree of a template.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "chat/operators.h"
#include "chat/value.h"

namespace diffulex_edge::chat {

struct Expression;
using ExpressionPointer = std::unique_ptr<Expression>;

enum class ExpressionKind {
  kConstant,    // value
  kName,        // name
  kAttribute,   // operands: object; name
  kItem,        // operands: object, key
  kSlice,       // operands: object, begin, end, step; the last three may be null
  kCall,        // operands: what is called; arguments
  kFilter,      // operands: input, null at the head of a block; name, arguments
  kTest,        // operands: value; name, arguments
  kList,        // operands: items
  kTuple,       // operands: items
  kDict,        // operands: key, value, key, value, ...
  kArithmetic,  // operands: left, right; operations: one
  kComparison,  // operands: one more than operations
  kConcatenation,
  kNegation,
  kPlus,
  kNot,
  kAnd,
  kOr,
  kCondition,  // operands: condition, then, else; the last may be null
};

struct NamedExpression {
  std::string name;
  ExpressionPointer value;
};

struct Expression {
  ExpressionKind kind = ExpressionKind::kConstant;
  int line = 0;
  int depth = 1;  // of the tree below, itself included
  std::string name;
  Value value;
  std::vector<ExpressionPointer> operands;
  std::vector<Operator> operations;
  std::vector<ExpressionPointer> positional;  // arguments
  std::vector<NamedExpression> named;         // arguments
};

// What is assigned to: a name, an attribute of a namespace, or several of them.
struct Target {
  std::string name;
  std::string attribute;        // empty: the name itself
  std::vector<Target> targets;  // not empty, or `is_tuple`: several
  bool is_tuple = false;
};

enum class StatementKind {
  kText,        // text
  kPrint,       // expression
  kIf,          // expression, body, else_body
  kFor,         // target in expression, condition, body, else_body
  kSet,         // target = expression
  kSetBlock,    // target = body, filtered by expression if there is one
  kMacro,       // text is its name; parameters, body
  kCall,        // expression is a call; parameters, body
  kFilter,      // expression is the filter of body
  kWith,        // parameters, body
  kGeneration,  // body
  kBreak,
  kContinue,
};

struct Statement {
  StatementKind kind = StatementKind::kText;
  int line = 0;
  std::string text;
  Target target;
  ExpressionPointer expression;
  ExpressionPointer condition;
  std::vector<NamedExpression> parameters;  // values are their defaults, or null
  std::vector<Statement> body;
  std::vector<Statement> else_body;
};

using Block = std::vector<Statement>;

}  // namespace diffulex_edge::chat
