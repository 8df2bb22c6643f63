// The words of diffulex-edge-run's command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "diffulex_edge/generation.h"

namespace diffulex_edge::runner {

struct RunArguments {
  std::string bundle;
  std::string prompt;
  bool is_chat = false;
  bool trusts_files = false;
  bool wants_stats = false;
  bool wants_json = false;
  bool wants_help = false;
  std::vector<std::pair<std::string, std::string>> decoding;  // options with their values, as given

  // The bundle's settings with what the command line says over them. Throws Error{kInvalidArgument} for a value.
  DiffusionGenerationConfig over(DiffusionGenerationConfig config) const;
};

// Throws Error{kInvalidArgument} for a word that is none of them.
RunArguments read_arguments(const std::vector<std::string>& words);

// What --help prints.
std::string help_text();

}  // namespace diffulex_edge::runner
