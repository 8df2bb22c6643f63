#include "chat/interpreter.h"

#include <algorithm>

#include "chat/failure.h"
#include "chat/limits.h"
#include "chat/operators.h"
#include "chat/printing.h"

namespace diffulex_edge::chat {
namespace {

// Empties a loop that has ended: loops that hold one another would be destroyed in a recursion, and the condition holds
// the scope that holds the loop.
class LoopEnd {
 public:
  explicit LoopEnd(Loop& loop) : loop_(loop) {}
  ~LoopEnd() { loop_ = Loop(); }
  LoopEnd(const LoopEnd&) = delete;
  LoopEnd& operator=(const LoopEnd&) = delete;
  LoopEnd(LoopEnd&&) = delete;
  LoopEnd& operator=(LoopEnd&&) = delete;

 private:
  Loop& loop_;
};

std::shared_ptr<Scope> scope_in(const std::shared_ptr<Scope>& around) { return std::make_shared<Scope>(around); }

}  // namespace

const Value* Scope::find(const std::string& name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->around.get()) {
    if (const auto found = scope->variables.find(name); found != scope->variables.end()) {
      return &found->second;
    }
  }
  return nullptr;
}

std::string Interpreter::render(const Block& block, std::vector<std::pair<std::string, Value>> variables) {
  const auto given = std::make_shared<Scope>(nullptr);
  for (auto& [name, value] : variables) {
    given->variables.insert_or_assign(std::move(name), std::move(value));
  }
  return run_apart(block, scope_in(given));
}

std::string Interpreter::run_apart(const Block& block, const ScopePointer& scope) {
  std::string outer = std::exchange(output_, {});
  run_block(block, scope);
  return std::exchange(output_, std::move(outer));
}

Interpreter::Flow Interpreter::run_block(const Block& block, const ScopePointer& scope) {
  for (const Statement& statement : block) {
    const Flow flow = run(statement, scope);
    if (flow != Flow::kNext) {
      return flow;
    }
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run(const Statement& statement, const ScopePointer& scope) {
  line_ = statement.line;
  enter();
  const Flow flow = run_kind(statement, scope);
  --running_;
  return flow;
}

// A Failure ends the rendering: the count need not be right after one.
void Interpreter::enter() {
  context_.budget.take(1);
  if (++running_ > kMaxRunning) {
    throw Failure("blocks, macros and expressions are nested deeper than " + std::to_string(kMaxRunning));
  }
}

Interpreter::Flow Interpreter::run_kind(const Statement& statement, const ScopePointer& scope) {
  switch (statement.kind) {
    case StatementKind::kText:
      append(output_, statement.text);
      break;
    case StatementKind::kPrint:
      append(output_, to_text(evaluate(*statement.expression, scope)));
      break;
    case StatementKind::kIf:
      return run_if(statement, scope);
    case StatementKind::kFor:
      return run_for(statement, scope);
    case StatementKind::kSet:
    case StatementKind::kSetBlock:
      run_set(statement, scope);
      break;
    case StatementKind::kMacro:
      scope->variables.insert_or_assign(statement.text, make_macro(statement, statement.text, scope));
      break;
    case StatementKind::kCall:
      run_call(statement, scope);
      break;
    case StatementKind::kFilter: {
      const Value text = Value::text(run_apart(statement.body, scope_in(scope)));
      append(output_, to_text(apply_filters(*statement.expression, text, scope)));
      break;
    }
    case StatementKind::kWith:
      return run_with(statement, scope);
    case StatementKind::kGeneration:
      return run_block(statement.body, scope_in(scope));
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_if(const Statement& statement, const ScopePointer& scope) {
  const bool holds = evaluate(*statement.expression, scope).truth();
  return run_block(holds ? statement.body : statement.else_body, scope);
}

Interpreter::Flow Interpreter::run_with(const Statement& statement, const ScopePointer& scope) {
  const ScopePointer inner = scope_in(scope);
  for (const auto& [name, value] : statement.parameters) {
    inner->variables.insert_or_assign(name, evaluate(*value, scope));
  }
  return run_block(statement.body, inner);
}

// Pulls what is iterated over, as far as the condition holds for it.
std::shared_ptr<Loop> Interpreter::make_loop(const Statement& statement, const ScopePointer& scope) {
  const Value source = evaluate(*statement.expression, scope);
  auto items = std::make_shared<std::vector<Value>>(iterate(source));
  context_.budget.take(items->size());
  auto loop = std::make_shared<Loop>();
  if (statement.condition == nullptr) {
    loop->known_length = static_cast<std::int64_t>(items->size());
  }
  loop->pull = [this, &statement, scope, items, next = std::size_t{0}]() mutable -> std::optional<Value> {
    while (next < items->size()) {
      const Value& item = (*items)[next++];
      if (statement.condition == nullptr) {
        return item;
      }
      const ScopePointer inner = scope_in(scope);
      assign(statement.target, item, inner, inner);
      if (evaluate(*statement.condition, inner).truth()) {
        return item;
      }
    }
    return std::nullopt;
  };
  return loop;
}

Interpreter::Flow Interpreter::run_for(const Statement& statement, const ScopePointer& scope) {
  const std::shared_ptr<Loop> loop = make_loop(statement, scope);
  const LoopEnd end(*loop);
  bool completed = false;
  run_iterations(statement, scope, loop, completed);
  // Jinja's own: a loop none of whose iterations reached its end counts as empty.
  return completed ? Flow::kNext : run_block(statement.else_body, scope_in(scope));
}

Interpreter::Flow Interpreter::run_iterations(const Statement& statement, const ScopePointer& scope,
                                              const std::shared_ptr<Loop>& loop, bool& completed) {
  while (loop->advance()) {
    context_.budget.take(1);
    const ScopePointer inner = scope_in(scope);
    inner->variables.insert_or_assign("loop", Value(loop));
    assign(statement.target, *loop->current, inner, inner);
    const Flow flow = run_block(statement.body, inner);
    if (flow == Flow::kBreak) {
      break;
    }
    completed = completed || flow == Flow::kNext;
  }
  return Flow::kNext;
}

void Interpreter::run_set(const Statement& statement, const ScopePointer& scope) {
  Value value;
  if (statement.kind == StatementKind::kSet) {
    value = evaluate(*statement.expression, scope);
  } else {
    value = Value::text(run_apart(statement.body, scope_in(scope)));
    if (statement.expression != nullptr) {
      value = apply_filters(*statement.expression, value, scope);
    }
  }
  assign(statement.target, value, scope, scope);
}

// Attributes are of namespaces that are looked up from `around`.
void Interpreter::assign(const Target& target, const Value& value, const ScopePointer& scope,
                         const ScopePointer& around) {
  if (target.is_tuple) {
    const std::vector<Value> parts = iterate(value);
    if (value.is_undefined() || parts.size() != target.targets.size()) {
      throw Failure(std::to_string(parts.size()) + " values are assigned to " + std::to_string(target.targets.size()) +
                    " names");
    }
    for (std::size_t i = 0; i < parts.size(); ++i) {
      assign(target.targets[i], parts[i], scope, around);
    }
    return;
  }
  if (target.attribute.empty()) {
    scope->variables.insert_or_assign(target.name, value);
    return;
  }
  const Value* found = around->find(target.name);
  if (found == nullptr || !found->if_namespace()) {
    throw Failure("'" + target.name + "' is no namespace whose attribute could be set");
  }
  found->if_namespace()->set(target.attribute, value);
}

void Interpreter::run_call(const Statement& statement, const ScopePointer& scope) {
  const Value caller = make_macro(statement, "caller", scope);
  append(output_, to_text(evaluate_call(*statement.expression, scope, caller)));
}

Value Interpreter::make_macro(const Statement& statement, const std::string& name, const ScopePointer& scope) {
  // The scope holds the macro: a pointer that counts would keep both.
  return make_function(name, [this, &statement, name, weak = std::weak_ptr<Scope>(scope)](const Arguments& arguments) {
    const ScopePointer around = weak.lock();
    if (around == nullptr) {
      fail_unsupported("a macro outside of the block that defines it");
    }
    return call_macro(statement, name, around, arguments);
  });
}

Value Interpreter::call_macro(const Statement& statement, const std::string& name, const ScopePointer& scope,
                              const Arguments& arguments) {
  const ScopePointer inner = scope_in(scope);
  ArgumentReader reader(name, arguments);
  for (const auto& [parameter, fallback] : statement.parameters) {
    std::optional<Value> value = reader.next(parameter);
    if (!value) {
      value = fallback == nullptr ? Value::undefined("parameter '" + parameter + "' was not provided")
                                  : evaluate(*fallback, inner);
    }
    inner->variables.insert_or_assign(parameter, std::move(*value));
  }
  if (const auto caller = reader.named("caller")) {
    inner->variables.insert_or_assign("caller", *caller);
  }
  reader.finish();
  const int line = line_;
  Value text = Value::text(run_apart(statement.body, inner));
  line_ = line;
  return text;
}

}  // namespace diffulex_edge::chat
