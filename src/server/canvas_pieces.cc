#include "server/canvas_pieces.h"

#include <string>
#include <string_view>
#include <utility>

namespace diffulex_edge {
namespace {

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

nlohmann::ordered_json CanvasPieces::take(const GenerationState& state) {
  const auto begin = static_cast<std::size_t>(state.begin);
  const auto end = static_cast<std::size_t>(state.end);
  if (was_masked_.empty()) {
    was_masked_.assign(end - begin, true);
  }
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
    const bool was_masked = was_masked_[i - begin];
    if (was_masked != is_new) {
      close_part(is_new);
      is_new = was_masked;
    }
    was_masked_[i - begin] = false;
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
