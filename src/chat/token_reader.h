// Goes through the tokens of a template.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chat/lexer.h"

namespace diffulex_edge::chat {

class TokenReader {
 public:
  explicit TokenReader(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[position_]; }
  const Token& next() const;  // behind the current one
  Token take();

  bool at(TokenKind kind) const { return current().kind == kind; }
  bool at_operator(std::string_view text) const { return at(TokenKind::kOperator) && current().text == text; }
  bool at_name(std::string_view text) const { return at(TokenKind::kName) && current().text == text; }
  // Passes it, if it is the current one.
  bool skip_operator(std::string_view text);
  bool skip_name(std::string_view text);

  // Throw Failure where something else comes.
  void expect_operator(std::string_view text);
  void expect_name(std::string_view text);
  void expect(TokenKind kind);
  std::string take_name();
  [[noreturn]] void fail_unexpected() const;

 private:
  std::vector<Token> tokens_;
  std::size_t position_ = 0;
};

}  // namespace diffulex_edge::chat
