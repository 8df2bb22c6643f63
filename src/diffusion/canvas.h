// A sequence that is being written: tokens, some of them still masked.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace diffulex_edge {

class Canvas {
 public:
  // `prompt`, `new_tokens` masks and `suffix`. The mask token stands for a masked position wherever it is; `mask` -1:
  // the model has none. Without new tokens: from the first of the prompt's masks to the last one.
  Canvas(std::span<const std::int64_t> prompt, std::int64_t new_tokens, std::span<const std::int64_t> suffix,
         std::int64_t mask);

  // Masks behind all that is there, up to a length that `block` divides.
  void fill_block(std::int64_t block);
  // So many masks behind all that is there.
  void extend(std::int64_t masks);

  std::int64_t size() const { return static_cast<std::int64_t>(tokens_.size()); }
  const std::vector<std::int64_t>& tokens() const { return tokens_; }
  const std::vector<bool>& masked() const { return masked_; }
  std::int64_t token(std::int64_t position) const { return tokens_[static_cast<std::size_t>(position)]; }
  bool is_masked(std::int64_t position) const { return masked_[static_cast<std::size_t>(position)]; }

  // The new tokens: [begin, end). What fill_block() added lies behind them.
  std::int64_t begin() const { return begin_; }
  std::int64_t end() const { return end_; }

  // The first masked position from `from` on, or size().
  std::int64_t first_mask(std::int64_t from = 0) const;
  // Masked positions in [begin, end), ascending.
  std::vector<std::int64_t> masks(std::int64_t begin, std::int64_t end) const;
  // New tokens before the first mask.
  std::int64_t written() const;

  void set(std::int64_t position, std::int64_t token);
  void mask(std::int64_t position);
  // Of a new token: what is behind it moves.
  void insert_mask(std::int64_t position);
  void erase(std::int64_t position);

 private:
  std::vector<std::int64_t> tokens_;
  std::vector<bool> masked_;
  std::int64_t mask_;
  std::int64_t begin_;
  std::int64_t end_;
};

}  // namespace diffulex_edge
