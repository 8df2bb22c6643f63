#include "tokenizer/piece_trie.h"

#include <algorithm>

namespace diffulex_edge {
namespace {

// Sorted strings that share their first bytes.
struct Range {
  std::size_t begin = 0;
  std::size_t end = 0;
};

}  // namespace

PieceTrie::PieceTrie(std::vector<Entry> entries) {
  std::erase_if(entries, [](const Entry& entry) { return entry.first.empty(); });
  std::ranges::sort(entries);
  labels_ = {0};
  numbers_ = {kNoNumber};
  first_children_.clear();
  std::vector<Range> level = {{0, entries.size()}};
  for (std::size_t depth = 0; !level.empty(); ++depth) {
    std::vector<Range> next;
    for (const Range& range : level) {
      first_children_.push_back(static_cast<std::uint32_t>(labels_.size()));
      std::size_t i = range.begin;
      for (; i < range.end && entries[i].first.size() == depth; ++i) {
      }
      while (i < range.end) {
        const char label = entries[i].first[depth];
        Range child{.begin = i, .end = i};
        std::uint32_t number = kNoNumber;
        for (; child.end < range.end && entries[child.end].first[depth] == label; ++child.end) {
          if (entries[child.end].first.size() == depth + 1) {
            number = entries[child.end].second;
          }
        }
        labels_.push_back(static_cast<std::uint8_t>(label));
        numbers_.push_back(number);
        next.push_back(child);
        i = child.end;
      }
    }
    level = std::move(next);
  }
  first_children_.push_back(static_cast<std::uint32_t>(labels_.size()));
}

std::optional<std::uint32_t> PieceTrie::child(std::uint32_t node, std::uint8_t label) const {
  const auto begin = labels_.begin() + first_children_[node];
  const auto end = labels_.begin() + first_children_[node + 1];
  const auto position = std::lower_bound(begin, end, label);
  if (position == end || *position != label) {
    return std::nullopt;
  }
  return static_cast<std::uint32_t>(position - labels_.begin());
}

}  // namespace diffulex_edge
