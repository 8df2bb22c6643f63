// Tokens that are no text, by the files of a model's folder. find_eos_ids is in diffulex_edge/model.h.
#pragma once

#include <cstdint>
#include <optional>

#include "diffulex_edge/model.h"

namespace diffulex_edge {

// Which token stands for a masked one: as config.json or the caller says; else the mask_token of
// special_tokens_map.json or tokenizer_config.json; else the token that the family's own program masks with
// ("|<MASK>|", Fast-dLLM v2). Its id is in the latter's added_tokens_decoder, or else in tokenizer.json. Nothing where
// none of them knows it. Throws Error{kBadFile} for a broken one of these files.
std::optional<std::int64_t> find_mask_token(const Model& model);

// The token that begins a text, by the files that find_eos_ids reads; nothing where none says. Errors as above.
std::optional<std::int64_t> find_bos_id(const Model& model);

// The token that stands for two masks: `expand_token_id` of config.json or generation_config.json, as DreamOn has it;
// nothing where it is not there, and for other families. Errors as above, and where it is not in the vocabulary.
std::optional<std::int64_t> find_expand_id(const Model& model);

}  // namespace diffulex_edge
