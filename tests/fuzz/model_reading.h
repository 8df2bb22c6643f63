// What users do with a model or an artefact once it is open.
#pragma once

#include <filesystem>

#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/model.h"

namespace diffulex_edge::fuzz {

// Decodes the first row of each tensor. One that is no weight is refused, and the others are still read.
void read_first_rows(const Checkpoint& checkpoint);

// Its special tokens, and a plan in the format that it asks for.
void use_model(const Model& model);

// As `inspect` prints it, without hashes. Throws std::logic_error for a tensor that lies outside of its file.
void show(const std::filesystem::path& path);

}  // namespace diffulex_edge::fuzz
