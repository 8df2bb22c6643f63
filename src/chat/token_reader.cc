#include "chat/token_reader.h"

#include <algorithm>

#include "chat/failure.h"

namespace diffulex_edge::chat {

const Token& TokenReader::next() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }

Token TokenReader::take() {
  Token token = current();
  position_ = std::min(position_ + 1, tokens_.size() - 1);
  return token;
}

bool TokenReader::skip_operator(std::string_view text) {
  const bool found = at_operator(text);
  if (found) {
    take();
  }
  return found;
}

bool TokenReader::skip_name(std::string_view text) {
  const bool found = at_name(text);
  if (found) {
    take();
  }
  return found;
}

void TokenReader::expect_operator(std::string_view text) {
  if (!skip_operator(text)) {
    fail_unexpected();
  }
}

void TokenReader::expect_name(std::string_view text) {
  if (!skip_name(text)) {
    fail_unexpected();
  }
}

void TokenReader::expect(TokenKind kind) {
  if (!at(kind)) {
    fail_unexpected();
  }
  take();
}

std::string TokenReader::take_name() {
  if (!at(TokenKind::kName)) {
    fail_unexpected();
  }
  return take().text;
}

void TokenReader::fail_unexpected() const {
  switch (current().kind) {
    case TokenKind::kEnd:
      throw Failure("the template ends too early", ErrorCode::kBadFile);
    case TokenKind::kBlockEnd:
    case TokenKind::kPrintEnd:
      throw Failure("a tag ends too early", ErrorCode::kBadFile);
    default:
      throw Failure("'" + current().text + "' is not expected here", ErrorCode::kBadFile);
  }
}

}  // namespace diffulex_edge::chat
