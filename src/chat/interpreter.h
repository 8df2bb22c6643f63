// Runs a template's syntax tree.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "chat/context.h"
#include "chat/syntax.h"
#include "chat/value.h"

namespace diffulex_edge::chat {

// The variables of a block; what it does not have is looked up around it.
struct Scope {
  explicit Scope(std::shared_ptr<Scope> outer) : around(std::move(outer)) {}
  const Value* find(const std::string& name) const;

  std::shared_ptr<Scope> around;
  std::map<std::string, Value> variables;
};

// One rendering.
class Interpreter {
 public:
  explicit Interpreter(std::chrono::system_clock::time_point now) : context_(now) {}

  // Throws Failure; `line` is then where.
  std::string render(const Block& block, std::vector<std::pair<std::string, Value>> variables);
  int line() const { return line_; }

 private:
  enum class Flow { kNext, kBreak, kContinue };
  using ScopePointer = std::shared_ptr<Scope>;

  void enter();  // an expression or statement

  // Statements (interpreter.cc). They append to `output_`.
  Flow run_block(const Block& block, const ScopePointer& scope);
  Flow run(const Statement& statement, const ScopePointer& scope);
  Flow run_kind(const Statement& statement, const ScopePointer& scope);
  Flow run_if(const Statement& statement, const ScopePointer& scope);
  Flow run_with(const Statement& statement, const ScopePointer& scope);
  Flow run_for(const Statement& statement, const ScopePointer& scope);
  Flow run_iterations(const Statement& statement, const ScopePointer& scope, const std::shared_ptr<Loop>& loop,
                      bool& completed);
  std::shared_ptr<Loop> make_loop(const Statement& statement, const ScopePointer& scope);
  void run_set(const Statement& statement, const ScopePointer& scope);
  void run_call(const Statement& statement, const ScopePointer& scope);
  void assign(const Target& target, const Value& value, const ScopePointer& scope, const ScopePointer& around);
  std::string run_apart(const Block& block, const ScopePointer& scope);  // what it prints
  Value make_macro(const Statement& statement, const std::string& name, const ScopePointer& scope);
  Value call_macro(const Statement& statement, const std::string& name, const ScopePointer& scope,
                   const Arguments& arguments);

  // Expressions (expressions.cc).
  Value evaluate(const Expression& expression, const ScopePointer& scope);
  Value evaluate_kind(const Expression& expression, const ScopePointer& scope);
  Value evaluate_optional(const ExpressionPointer& expression, const ScopePointer& scope);  // none without one
  Value evaluate_name(const Expression& expression, const ScopePointer& scope);
  Value evaluate_list(const Expression& expression, const ScopePointer& scope);
  Value evaluate_dict(const Expression& expression, const ScopePointer& scope);
  Value evaluate_slice(const Expression& expression, const ScopePointer& scope);
  Value evaluate_call(const Expression& expression, const ScopePointer& scope,
                      const std::optional<Value>& caller = std::nullopt);
  Value evaluate_filter(const Expression& expression, const Value& input, const ScopePointer& scope);
  Value apply_filters(const Expression& expression, const Value& head, const ScopePointer& scope);
  Value evaluate_test(const Expression& expression, const ScopePointer& scope);
  Value evaluate_arithmetic(const Expression& expression, const ScopePointer& scope);
  Value evaluate_comparison(const Expression& expression, const ScopePointer& scope);
  Value evaluate_concatenation(const Expression& expression, const ScopePointer& scope);
  Value evaluate_logic(const Expression& expression, const ScopePointer& scope);
  Arguments evaluate_arguments(const Expression& expression, const ScopePointer& scope);
  void charge_search(const Value& text, const Value& part);
  void charge_comparison(bool is_search, const Value& left, const Value& right);

  Context context_;
  std::string output_;
  int line_ = 1;
  int running_ = 0;  // expressions and statements inside one another
};

}  // namespace diffulex_edge::chat
