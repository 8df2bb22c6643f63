#include "diffusion/canvas.h"

#include <algorithm>

#include "core/round_up.h"

namespace diffulex_edge {

Canvas::Canvas(std::span<const std::int64_t> prompt, std::int64_t new_tokens, std::span<const std::int64_t> suffix,
               std::int64_t mask)
    : tokens_(prompt.begin(), prompt.end()),
      mask_(mask),
      begin_(static_cast<std::int64_t>(prompt.size())),
      end_(begin_ + new_tokens) {
  tokens_.resize(static_cast<std::size_t>(end_), mask_);
  tokens_.insert(tokens_.end(), suffix.begin(), suffix.end());
  for (std::int64_t i = 0; i < size(); ++i) {
    masked_.push_back((i >= begin_ && i < end_) || token(i) == mask_);
  }
  if (new_tokens == 0) {
    begin_ = first_mask();
    end_ = begin_;
    for (const std::int64_t position : masks(begin_, size())) {
      end_ = position + 1;
    }
  }
}

void Canvas::fill_block(std::int64_t block) { extend(round_up(size(), block) - size()); }

void Canvas::extend(std::int64_t masks) {
  const auto length = static_cast<std::size_t>(size() + masks);
  tokens_.resize(length, mask_);
  masked_.resize(length, true);
}

std::int64_t Canvas::first_mask(std::int64_t from) const {
  return std::ranges::find(masked_.begin() + from, masked_.end(), true) - masked_.begin();
}

std::vector<std::int64_t> Canvas::masks(std::int64_t begin, std::int64_t end) const {
  std::vector<std::int64_t> positions;
  for (std::int64_t i = first_mask(begin); i < end; i = first_mask(i + 1)) {
    positions.push_back(i);
  }
  return positions;
}

std::int64_t Canvas::written() const { return std::clamp(first_mask(begin_), begin_, end_) - begin_; }

void Canvas::set(std::int64_t position, std::int64_t token) {
  tokens_[static_cast<std::size_t>(position)] = token;
  masked_[static_cast<std::size_t>(position)] = false;
}

void Canvas::mask(std::int64_t position) {
  tokens_[static_cast<std::size_t>(position)] = mask_;
  masked_[static_cast<std::size_t>(position)] = true;
}

void Canvas::insert_mask(std::int64_t position) {
  tokens_.insert(tokens_.begin() + position, mask_);
  masked_.insert(masked_.begin() + position, true);
  ++end_;
}

void Canvas::erase(std::int64_t position) {
  tokens_.erase(tokens_.begin() + position);
  masked_.erase(masked_.begin() + position);
  --end_;
}

}  // namespace diffulex_edge
