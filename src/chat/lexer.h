// A template as tokens: text between tags, and what stands inside them.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "chat/value.h"

namespace diffulex_edge::chat {

enum class TokenKind {
  kData,  // text outside of tags
  kBlockBegin,
  kBlockEnd,
  kPrintBegin,
  kPrintEnd,
  kName,
  kText,
  kNumber,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int line = 1;
  std::string text;  // of data, names, operators and texts, without escapes
  Value number;
};

// With Jinja's trim_blocks and lstrip_blocks: a tag takes the line end that follows it, and the blanks between it and
// the beginning of its line. Throws Failure; `line` is then where.
std::vector<Token> read_tokens(std::string_view text, int& line);

}  // namespace diffulex_edge::chat
