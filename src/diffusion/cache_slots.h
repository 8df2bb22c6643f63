// The sequences of a cache: which are taken, and which tokens the free ones still hold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace diffulex_edge {

class CacheSlots {
 public:
  struct Place {
    std::size_t first = 0;
    std::int64_t kept = 0;  // the first tokens of the prompt, whose keys and values the sequence has
  };

  explicit CacheSlots(std::size_t count) : slots_(count) {}

  // A free sequence for `prompt`: one that holds little else than the prompt's beginning, else the one that was not
  // used for the longest time. Nothing where none is free.
  std::optional<Place> find(std::span<const std::int64_t> prompt) const;
  // Two free sequences side by side, of which nothing is kept.
  std::optional<Place> find_pair() const;

  void take(std::size_t first, std::size_t count);
  // `kept` are the first tokens whose keys and values the first sequence has; the others have none.
  void release(std::size_t first, std::size_t count, std::span<const std::int64_t> kept);

 private:
  struct Slot {
    bool is_taken = false;
    std::uint64_t released = 0;  // 0: never used
    std::vector<std::int64_t> kept;
  };

  std::vector<Slot> slots_;
  std::uint64_t releases_ = 0;
};

}  // namespace diffulex_edge
