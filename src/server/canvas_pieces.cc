#include "server/canvas_pieces.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

namespace diffulex_edge {
namespace {

constexpr std::int64_t kMasked = -1;
constexpr std::string_view kHalfCharacter = "\xEF\xBF\xBD";

struct CanvasPiece {
  std::string text;
  bool is_new = false;
};

void add_piece(nlohmann::ordered_json& pieces, const CanvasPiece& piece) {
  if (!piece.text.empty()) {
    pieces.push_back({{"text", piece.text}, {"new", piece.is_new}});
  }
}

}  // namespace

// Where the canvas became longer or shorter, what is before and behind that place is as it was.
std::vector<bool> CanvasPieces::find_new(const GenerationState& state) {
  std::vector<std::int64_t> shown;
  for (std::int64_t i = state.begin; i < state.end; ++i) {
    const auto at = static_cast<std::size_t>(i);
    shown.push_back(state.masked[at] ? kMasked : state.tokens[at]);
  }
  std::vector<bool> is_new(shown.size(), true);
  std::size_t front = 0;
  std::size_t back = 0;
  const std::size_t common = std::min(shown.size(), shown_.size());
  if (shown.size() == shown_.size()) {
    for (std::size_t i = 0; i < shown.size(); ++i) {
      is_new[i] = shown[i] != shown_[i];
    }
  } else {
    while (front < common && shown[front] == shown_[front]) {
      is_new[front++] = false;
    }
    while (back < common - front && shown[shown.size() - 1 - back] == shown_[shown_.size() - 1 - back]) {
      is_new[shown.size() - 1 - back] = false;
      ++back;
    }
  }
  shown_ = std::move(shown);
  return is_new;
}

nlohmann::ordered_json CanvasPieces::take(const GenerationState& state) {
  const auto begin = static_cast<std::size_t>(state.begin);
  const auto end = static_cast<std::size_t>(state.end);
  const std::vector<bool> is_new_token = find_new(state);
  nlohmann::ordered_json pieces = nlohmann::ordered_json::array();
  std::vector<std::int64_t> run;
  std::vector<std::int64_t> part;
  std::vector<CanvasPiece> parts;
  const auto decode = [&](const std::vector<std::int64_t>& tokens, bool is_start) {
    return is_start ? model_.tokenizer().decode(tokens) : model_.tokenizer().decode_continuation(tokens);
  };
  const auto close_part = [&](bool is_new) {
    if (!part.empty()) {
      parts.push_back({.text = decode(part, pieces.empty() && parts.empty()), .is_new = is_new});
      part.clear();
    }
  };
  // Parts of a run by age, unless that would cut a character.
  const auto close_run = [&] {
    bool is_cut = false;
    bool is_new = false;
    for (const CanvasPiece& piece : parts) {
      is_cut = is_cut || piece.text.find(kHalfCharacter) != std::string::npos;
      is_new = is_new || piece.is_new;
    }
    if (is_cut) {
      parts = {{.text = decode(run, pieces.empty()), .is_new = is_new}};
    }
    for (const CanvasPiece& piece : parts) {
      add_piece(pieces, piece);
    }
    parts.clear();
    run.clear();
  };
  std::size_t masks = 0;
  const auto close_masks = [&] {
    if (masks > 0) {
      pieces.push_back({{"masks", std::exchange(masks, 0)}});
    }
  };
  bool is_new = false;
  for (std::size_t i = begin; i < end; ++i) {
    if (state.masked[i]) {
      close_part(is_new);
      close_run();
      ++masks;
      continue;
    }
    close_masks();
    if (is_new_token[i - begin] != is_new) {
      close_part(is_new);
      is_new = is_new_token[i - begin];
    }
    if (!model_.special_tokens().contains(state.tokens[i])) {
      part.push_back(state.tokens[i]);
      run.push_back(state.tokens[i]);
    }
  }
  close_part(is_new);
  close_run();
  close_masks();
  return pieces;
}

}  // namespace diffulex_edge
