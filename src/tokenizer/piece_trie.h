// A set of byte strings with numbers, to find all that a text begins with.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace diffulex_edge {

// Nodes lie level by level, the children of one side by side: nine bytes a node.
class PieceTrie {
 public:
  // Of strings that a text is searched for: each byte of them costs time at each byte of it.
  static constexpr std::size_t kMaxBytes = 512;
  using Entry = std::pair<std::string_view, std::uint32_t>;

  PieceTrie() = default;
  // Of equal strings the largest number counts. The empty string is left out.
  explicit PieceTrie(std::vector<Entry> entries);

  // Calls `found(length, number)` for each string that `text` begins with, the shortest first.
  template <typename Found>
  void for_each_prefix(std::string_view text, Found found) const {
    std::uint32_t node = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const std::optional<std::uint32_t> next = child(node, static_cast<std::uint8_t>(text[i]));
      if (!next) {
        return;
      }
      node = *next;
      if (numbers_[node] != kNoNumber) {
        found(i + 1, numbers_[node]);
      }
    }
  }

 private:
  static constexpr std::uint32_t kNoNumber = UINT32_MAX;
  std::optional<std::uint32_t> child(std::uint32_t node, std::uint8_t label) const;

  std::vector<std::uint8_t> labels_;
  std::vector<std::uint32_t> numbers_;
  std::vector<std::uint32_t> first_children_ = {0, 0};  // the children of i end where those of i + 1 begin
};

}  // namespace diffulex_edge
