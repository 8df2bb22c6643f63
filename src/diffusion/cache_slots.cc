#include "diffusion/cache_slots.h"

#include <algorithm>

namespace diffulex_edge {
namespace {

std::int64_t common_beginning(std::span<const std::int64_t> a, std::span<const std::int64_t> b) {
  return std::ranges::mismatch(a, b).in1 - a.begin();
}

}  // namespace

std::optional<CacheSlots::Place> CacheSlots::find(std::span<const std::int64_t> prompt) const {
  std::optional<Place> oldest;
  std::optional<Place> best;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    if (slot.is_taken) {
      continue;
    }
    const Place place{.first = i, .kept = common_beginning(slot.kept, prompt)};
    if (!oldest || slot.released < slots_[oldest->first].released) {
      oldest = place;
    }
    // Two conversations may begin with the same instructions: the second one does not overwrite the first.
    const bool is_continued = 2 * place.kept >= static_cast<std::int64_t>(slot.kept.size());
    if (is_continued && place.kept > (best ? best->kept : 0)) {
      best = place;
    }
  }
  return best ? best : oldest;
}

std::optional<CacheSlots::Place> CacheSlots::find_pair() const {
  const auto both_free = [](const Slot& a, const Slot& b) { return !a.is_taken && !b.is_taken; };
  const auto first = std::ranges::adjacent_find(slots_, both_free);
  if (first == slots_.end()) {
    return std::nullopt;
  }
  return Place{.first = static_cast<std::size_t>(first - slots_.begin())};
}

void CacheSlots::take(std::size_t first, std::size_t count) {
  for (Slot& slot : std::span(slots_).subspan(first, count)) {
    slot.is_taken = true;
    slot.kept.clear();
  }
}

void CacheSlots::release(std::size_t first, std::size_t count, std::span<const std::int64_t> kept) {
  ++releases_;
  for (Slot& slot : std::span(slots_).subspan(first, count)) {
    slot.is_taken = false;
    slot.released = releases_;
  }
  slots_[first].kept.assign(kept.begin(), kept.end());
}

}  // namespace diffulex_edge
