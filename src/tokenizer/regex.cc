#include "tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cstdint>
#include <limits>
#include <new>
#include <optional>
#include <utility>

#include "diffulex_edge/error.h"
#include "tokenizer/oniguruma_syntax.h"
#include "tokenizer/utf8.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kMaxPatternBytes = 65536;
// Steps of one search: a sound pattern goes over a run of spaces or letters a few times, never over all its subsets.
constexpr std::uint32_t kMatchLimit = 200'000;
constexpr std::uint32_t kMatchLimitPerByte = 16;
constexpr std::uint32_t kHeapLimitKib = 256 * 1024;

struct Deleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

template <typename T>
using Owned = std::unique_ptr<T, Deleter>;

template <typename T>
Owned<T> owned(T* pointer) {
  if (pointer == nullptr) {
    throw std::bad_alloc();
  }
  return Owned<T>(pointer);
}

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// One text that is searched from left to right.
class Search {
 public:
  Search(const pcre2_code* code, std::string_view text)
      : code_(code),
        text_(text),
        data_(owned(pcre2_match_data_create(1, nullptr))),
        context_(owned(pcre2_match_context_create(nullptr))) {
    const std::uint64_t limit = kMatchLimit + std::uint64_t{kMatchLimitPerByte} * text.size();
    constexpr std::uint64_t kMost = std::numeric_limits<std::uint32_t>::max();
    pcre2_set_match_limit(context_.get(), static_cast<std::uint32_t>(limit < kMost ? limit : kMost));
    pcre2_set_heap_limit(context_.get(), kHeapLimitKib);
  }

  // PCRE2's code: at least 0 for a match, which begin() and end() tell.
  int find_from(std::size_t position) {
    // The text was checked once; PCRE2 would check all the rest of it in each call.
    int result = match(position, PCRE2_NO_UTF_CHECK);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
      result = match(position, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT);  // its stack is on the heap
    }
    return result;
  }

  std::size_t begin() const { return pcre2_get_ovector_pointer(data_.get())[0]; }
  std::size_t end() const { return pcre2_get_ovector_pointer(data_.get())[1]; }

 private:
  int match(std::size_t position, std::uint32_t options) {
    return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), position, options, data_.get(),
                       context_.get());
  }

  const pcre2_code* code_;
  std::string_view text_;
  Owned<pcre2_match_data> data_;
  Owned<pcre2_match_context> context_;
};

}  // namespace

struct Regex::Code {
  std::unique_ptr<pcre2_code, void (*)(pcre2_code*)> compiled{nullptr, pcre2_code_free};
};

Regex Regex::from_pattern(const std::string& pattern, const std::string& where) {
  // In Oniguruma's syntax ^ and $ are about lines, and only LF ends a line.
  return {pcre2_pattern(pattern, where), PCRE2_UCP | PCRE2_MULTILINE, where};
}

// \C would match a part of a character.
Regex Regex::from_pcre2(const std::string& pattern, const std::string& where) {
  return {pattern, PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, where};
}

Regex Regex::from_literal(const std::string& text, const std::string& where) { return {text, PCRE2_LITERAL, where}; }

Regex::Regex(const std::string& pattern, std::uint32_t options, const std::string& where) : where_(where) {
  const auto context = owned(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_max_pattern_length(context.get(), kMaxPatternBytes);
  int error = 0;
  std::size_t offset = 0;
  auto code = std::make_shared<Code>();
  code->compiled.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | options,
                                     &error, &offset, context.get()));
  if (!code->compiled) {
    throw Error(ErrorCode::kUnsupported, where, "the regular expression can't be used: " + message_of(error));
  }
  pcre2_jit_compile(code->compiled.get(), PCRE2_JIT_COMPLETE);  // where it can't, matching is slower
  code_ = std::move(code);
}

std::vector<Span> Regex::cut(std::string_view text) const {
  std::vector<Span> spans;
  Search search(code_->compiled.get(), text);
  std::size_t done = 0;
  std::optional<std::size_t> last_end;
  for (std::size_t position = 0; position <= text.size();) {
    const int result = search.find_from(position);
    if (result == PCRE2_ERROR_NOMATCH) {
      break;
    }
    if (result < 0) {
      throw Error(
          ErrorCode::kUnsupported, where_,
          "the regular expression fails on a text of " + std::to_string(text.size()) + " bytes: " + message_of(result));
    }
    if (search.begin() == search.end() && last_end == search.end()) {
      position = search.end() + (search.end() < text.size() ? character_length(text[search.end()]) : 1);
      continue;
    }
    if (search.begin() > done) {
      spans.push_back({done, search.begin(), false});
    }
    spans.push_back({search.begin(), search.end(), true});
    position = done = search.end();
    last_end = search.end();
  }
  if (done < text.size()) {
    spans.push_back({done, text.size(), false});
  }
  return spans;
}

}  // namespace diffulex_edge
