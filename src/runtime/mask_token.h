// Which token stands for a masked one.
#pragma once

#include <cstdint>
#include <optional>

#include "diffulex_edge/model.h"

namespace diffulex_edge {

// As config.json or the caller says; else the mask_token of special_tokens_map.json or tokenizer_config.json; else the
// token that the family's own program masks with ("|<MASK>|", Fast-dLLM v2). Nothing where none of them knows it.
// Throws Error{kBadFile} for a broken one of these files.
std::optional<std::int64_t> find_mask_token(const Model& model);

}  // namespace diffulex_edge
