// How text is decoded, for the subcommands that write some.
#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "diffulex_edge/generation.h"

namespace diffulex_edge::cli {

struct GenerationArguments {
  DiffusionGenerationConfig config;
  std::optional<std::string> remasking;
  std::string cache = "auto";
  std::string cache_dtype = "fp32";
  bool fixed_length = false;

  // All options but --block-length, which the model needs too.
  void add_to(CLI::App& command);
  // The same without --seed, for a command that has one.
  void add_without_seed_to(CLI::App& command);
  // Throws Error{kInvalidArgument} for an unknown name. The model's own tokens count where none were given.
  DiffusionGenerationConfig parsed(const std::vector<std::int64_t>& eos_ids,
                                   std::optional<std::int64_t> expand_id) const;
};

}  // namespace diffulex_edge::cli
