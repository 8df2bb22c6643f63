// Tokens and their ids.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

namespace diffulex_edge {

class Vocabulary {
 public:
  static constexpr std::int64_t kMaxId = INT32_MAX;

  Vocabulary() = default;
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;
  Vocabulary(const Vocabulary&) = delete;
  Vocabulary& operator=(const Vocabulary&) = delete;
  ~Vocabulary() = default;

  void reserve(std::size_t tokens);
  // `id` is in 0..kMaxId. The token that has the id already, if there is one: nothing is then added. Of two ids of one
  // token the later is its id, and both are decoded to it.
  const std::string* add(std::string token, std::int64_t id);

  std::optional<std::uint32_t> id_of(std::string_view token) const;
  const std::string* token(std::int64_t id) const;  // null: no token has it
  // Calls `visit(token, id)` for each token, in no order.
  template <typename Visit>
  void for_each(Visit visit) const {
    for (const auto& [token, id] : ids_) {
      visit(token, id);
    }
  }

  std::int64_t size() const { return static_cast<std::int64_t>(tokens_.size()); }  // ids
  std::int64_t largest_id() const { return largest_; }                             // -1: there is none

 private:
  struct TextHash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  std::unordered_map<std::string, std::uint32_t, TextHash, std::equal_to<>> ids_;
  std::unordered_map<std::int64_t, const std::string*> tokens_;  // keys of ids_, which stay where they are
  std::int64_t largest_ = -1;
};

}  // namespace diffulex_edge
