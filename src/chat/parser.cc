#include "chat/parser.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "chat/expression_parser.h"
#include "chat/failure.h"
#include "chat/lexer.h"
#include "chat/limits.h"
#include "chat/token_reader.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge::chat {
namespace {

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)), expressions_(tokens_) {}

  Block parse() {
    Block block = parse_block({});
    if (!tokens_.at(TokenKind::kEnd)) {
      tokens_.fail_unexpected();
    }
    return block;
  }

  int line() const { return tokens_.current().line; }

 private:
  using Names = std::initializer_list<std::string_view>;

  bool at_any(Names names) const {
    return std::ranges::any_of(names, [&](std::string_view name) { return tokens_.at_name(name); });
  }

  // Up to a tag that has one of these names, which is then current; or to the end, if there are none.
  Block parse_block(Names ends) {
    if (++open_ > kMaxDepth) {
      throw Failure("the template is nested deeper than " + std::to_string(kMaxDepth), ErrorCode::kBadFile);
    }
    Block block;
    while (!tokens_.at(TokenKind::kEnd)) {
      Statement statement;
      statement.line = line();
      if (tokens_.at(TokenKind::kData)) {
        statement.text = tokens_.take().text;
      } else if (tokens_.at(TokenKind::kPrintBegin)) {
        tokens_.take();
        statement.kind = StatementKind::kPrint;
        statement.expression = expressions_.tuple();
        tokens_.expect(TokenKind::kPrintEnd);
      } else {
        tokens_.expect(TokenKind::kBlockBegin);
        if (at_any(ends)) {
          --open_;
          return block;
        }
        parse_statement(statement);
        tokens_.expect(TokenKind::kBlockEnd);
      }
      block.push_back(std::move(statement));
    }
    if (ends.size() > 0) {
      throw Failure("the template ends before '" + std::string(*(ends.end() - 1)) + "'", ErrorCode::kBadFile);
    }
    --open_;
    return block;
  }

  // The rest of a tag, and the block behind it up to `ends`.
  Block parse_body(Names ends) {
    tokens_.skip_operator(":");
    tokens_.expect(TokenKind::kBlockEnd);
    return parse_block(ends);
  }

  Block parse_whole_body(std::string_view end) {
    Block block = parse_body({end});
    tokens_.take();
    return block;
  }

  void parse_statement(Statement& statement) {
    const std::string tag = tokens_.take_name();
    if (tag == "if") {
      parse_if(statement);
    } else if (tag == "for") {
      parse_for(statement);
    } else if (tag == "set") {
      parse_set(statement);
    } else if (tag == "macro") {
      parse_macro(statement);
    } else if (tag == "call") {
      parse_call(statement);
    } else if (tag == "filter") {
      statement.kind = StatementKind::kFilter;
      statement.expression = expressions_.first_filter();
      statement.body = parse_outside_of_loops("endfilter");
    } else if (tag == "with") {
      parse_with(statement);
    } else if (tag == "generation") {
      statement.kind = StatementKind::kGeneration;
      statement.body = parse_outside_of_loops("endgeneration");
    } else if (tag == "break" || tag == "continue") {
      parse_jump(statement, tag);
    } else if (tag.starts_with("end") || tag == "else" || tag == "elif") {
      throw Failure("the tag '" + tag + "' closes nothing", ErrorCode::kBadFile);
    } else {
      fail_unsupported("the tag '" + tag + "'");
    }
  }

  // A `break` inside would not be the surrounding loop's.
  Block parse_outside_of_loops(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Block block = parse_whole_body(end);
    loops_ = loops;
    return block;
  }

  void parse_jump(Statement& statement, const std::string& tag) const {
    if (loops_ == 0) {
      throw Failure("'" + tag + "' stands outside of a loop", ErrorCode::kBadFile);
    }
    statement.kind = tag == "break" ? StatementKind::kBreak : StatementKind::kContinue;
  }

  void parse_if(Statement& statement) {
    statement.kind = StatementKind::kIf;
    statement.expression = expressions_.tuple(false);
    statement.body = parse_body({"elif", "else", "endif"});
    const std::string tag = tokens_.take_name();
    if (tag == "elif") {
      if (++open_ > kMaxDepth) {
        throw Failure("the template is nested deeper than " + std::to_string(kMaxDepth), ErrorCode::kBadFile);
      }
      Statement other;
      other.line = line();
      parse_if(other);
      --open_;
      statement.else_body.push_back(std::move(other));
    } else if (tag == "else") {
      statement.else_body = parse_whole_body("endif");
    }
  }

  void parse_for(Statement& statement) {
    statement.kind = StatementKind::kFor;
    statement.target = parse_targets(false);
    tokens_.expect_name("in");
    statement.expression = expressions_.tuple(false);
    if (tokens_.skip_name("if")) {
      statement.condition = expressions_.expression();
    }
    if (tokens_.at_name("recursive")) {
      fail_unsupported("a recursive loop");
    }
    ++loops_;
    statement.body = parse_body({"else", "endfor"});
    --loops_;
    if (tokens_.take_name() == "else") {
      statement.else_body = parse_whole_body("endfor");
    }
  }

  void parse_set(Statement& statement) {
    statement.target = parse_targets(true);
    if (tokens_.skip_operator("=")) {
      statement.kind = StatementKind::kSet;
      statement.expression = expressions_.tuple();
      return;
    }
    statement.kind = StatementKind::kSetBlock;
    if (tokens_.skip_operator("|")) {
      statement.expression = expressions_.first_filter();
    }
    statement.body = parse_outside_of_loops("endset");
  }

  void parse_macro(Statement& statement) {
    statement.kind = StatementKind::kMacro;
    statement.text = tokens_.take_name();
    statement.parameters = parse_parameters();
    statement.body = parse_outside_of_loops("endmacro");
  }

  void parse_call(Statement& statement) {
    statement.kind = StatementKind::kCall;
    if (tokens_.at_operator("(")) {
      statement.parameters = parse_parameters();
    }
    statement.expression = expressions_.expression();
    if (statement.expression->kind != ExpressionKind::kCall) {
      throw Failure("the tag 'call' needs a call", ErrorCode::kBadFile);
    }
    statement.body = parse_outside_of_loops("endcall");
  }

  void parse_with(Statement& statement) {
    statement.kind = StatementKind::kWith;
    while (!tokens_.at(TokenKind::kBlockEnd)) {
      if (!statement.parameters.empty()) {
        tokens_.expect_operator(",");
      }
      std::string name = tokens_.take_name();
      tokens_.expect_operator("=");
      statement.parameters.push_back({std::move(name), expressions_.expression()});
    }
    statement.body = parse_whole_body("endwith");
  }

  std::vector<NamedExpression> parse_parameters() {
    std::vector<NamedExpression> parameters;
    tokens_.expect_operator("(");
    while (!tokens_.skip_operator(")")) {
      if (!parameters.empty()) {
        tokens_.expect_operator(",");
      }
      std::string name = tokens_.take_name();
      ExpressionPointer fallback = tokens_.skip_operator("=") ? expressions_.expression() : nullptr;
      if (fallback == nullptr && !parameters.empty() && parameters.back().value != nullptr) {
        throw Failure("the parameter '" + name + "' without a default follows one that has one", ErrorCode::kBadFile);
      }
      parameters.push_back({std::move(name), std::move(fallback)});
    }
    return parameters;
  }

  Target parse_target(bool with_attribute) {
    if (tokens_.skip_operator("(")) {
      Target target = parse_targets(with_attribute);
      tokens_.expect_operator(")");
      return target;
    }
    Target target;
    target.name = tokens_.take_name();
    if (with_attribute && tokens_.skip_operator(".")) {
      target.attribute = tokens_.take_name();
    }
    static constexpr std::string_view kConstants[] = {"true", "false", "none", "True", "False", "None"};
    for (const std::string_view constant : kConstants) {
      if (target.name == constant) {
        throw Failure("'" + target.name + "' can't be assigned to", ErrorCode::kBadFile);
      }
    }
    return target;
  }

  Target parse_targets(bool with_attribute) {
    if (++open_ > kMaxDepth) {
      throw Failure("the template is nested deeper than " + std::to_string(kMaxDepth), ErrorCode::kBadFile);
    }
    Target first = parse_target(with_attribute);
    --open_;
    if (!tokens_.at_operator(",")) {
      return first;
    }
    Target tuple;
    tuple.is_tuple = true;
    tuple.targets.push_back(std::move(first));
    while (tokens_.skip_operator(",") && !tokens_.at_name("in") && !tokens_.at_operator(")")) {
      tuple.targets.push_back(parse_target(with_attribute));
    }
    return tuple;
  }

  TokenReader tokens_;
  ExpressionParser expressions_;
  int open_ = 0;   // blocks inside one another
  int loops_ = 0;  // that a `break` may leave
};

Block parse_template(std::string_view text, const std::string& name) {
  int line = 1;
  const auto fail = [&](const Failure& failure, int where) {
    const bool supported = failure.code() != ErrorCode::kUnsupported;
    throw Error(supported ? ErrorCode::kBadFile : failure.code(), name + ": line " + std::to_string(where),
                failure.what());
  };
  std::vector<Token> tokens;
  try {
    tokens = read_tokens(text, line);
  } catch (const Failure& failure) {
    fail(failure, line);
  }
  Parser parser(std::move(tokens));
  try {
    return parser.parse();
  } catch (const Failure& failure) {
    fail(failure, parser.line());
  }
  return {};
}

}  // namespace

ParsedTemplate::ParsedTemplate(std::string_view text, std::string given_name) : name(std::move(given_name)) {
  if (const auto position = invalid_utf8(text)) {
    throw Error(ErrorCode::kBadFile, name, "is not valid UTF-8 at byte " + std::to_string(*position));
  }
  block = parse_template(text, name);
}

}  // namespace diffulex_edge::chat
