#include "runtime/key_value_cache.h"

#include <algorithm>
#include <string>

#include "diffulex_edge/error.h"

namespace diffulex_edge {

KeyValueCache::Tokens KeyValueCache::put(ValueId attention, std::size_t sequence, std::int64_t start,
                                         std::span<const float> keys, std::span<const float> values,
                                         std::int64_t width) {
  std::vector<Sequence>& sequences = sequences_[attention];
  if (sequences.size() <= sequence) {
    sequences.resize(sequence + 1);
  }
  Sequence& kept = sequences[sequence];
  const auto begin = static_cast<std::size_t>(start * width);
  if (kept.keys.size() < begin) {
    throw Error(ErrorCode::kInvalidArgument, "sequence " + std::to_string(sequence),
                "goes on at position " + std::to_string(start) + ", but only " +
                    std::to_string(static_cast<std::int64_t>(kept.keys.size()) / width) + " tokens were run before");
  }
  kept.keys.resize(begin + keys.size());
  kept.values.resize(begin + values.size());
  std::ranges::copy(keys, kept.keys.begin() + static_cast<std::ptrdiff_t>(begin));
  std::ranges::copy(values, kept.values.begin() + static_cast<std::ptrdiff_t>(begin));
  return {.keys = kept.keys, .values = kept.values};
}

std::int64_t KeyValueCache::bytes() const {
  std::size_t floats = 0;
  for (const auto& [attention, sequences] : sequences_) {
    for (const Sequence& sequence : sequences) {
      floats += sequence.keys.size() + sequence.values.size();
    }
  }
  return static_cast<std::int64_t>(floats * sizeof(float));
}

}  // namespace diffulex_edge
