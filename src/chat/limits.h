// What a template may take: it comes from a file that somebody downloaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace diffulex_edge::chat {

constexpr int kMaxNesting = 100;   // of lists and dicts
constexpr int kMaxDepth = 200;     // of a template's syntax
constexpr int kMaxRunning = 1000;  // expressions and statements inside one another, in macros too
constexpr std::size_t kMaxText = std::size_t{32} << 20U;       // bytes of any text, the output included
constexpr std::size_t kMaxItems = 1'000'000;                   // of any list or dict
constexpr std::uint64_t kMaxWeight = std::uint64_t{1} << 24U;  // of any list or dict: see Value::weight
constexpr std::size_t kMaxAttributes = 1000;                   // of a namespace
constexpr std::uint64_t kMaxSteps = std::uint64_t{1} << 24U;   // of one rendering: less than a second

// Throw Failure beyond the limit; to be called before memory is taken.
void check_text(std::size_t bytes);
void check_items(std::size_t count);

// Counts the steps of one rendering.
class Budget {
 public:
  // Throws Failure where they are used up.
  void take(std::uint64_t steps);

 private:
  std::uint64_t left_ = kMaxSteps;
};

// Appends, within the limit of texts.
void append(std::string& text, std::string_view piece);

}  // namespace diffulex_edge::chat
