// Models in the folder that `hf download` and transformers keep of the Hugging Face hub: models--ORG--NAME, with the
// commit of each revision in refs, and for each commit a folder of links in snapshots.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace diffulex_edge {

// Where that is: $HF_HUB_CACHE, $HF_HOME/hub, $XDG_CACHE_HOME/huggingface/hub or ~/.cache/huggingface/hub.
std::filesystem::path hub_cache();

// The folder that has this name, here or in that cache, as find_model (diffulex_edge/checkpoint.h) has it.
std::filesystem::path find_folder(const std::filesystem::path& name);

// "ORG/NAME" for a folder of that cache, or one below it; nothing for others.
std::optional<std::string> cached_repository(const std::filesystem::path& folder);

// "run `hf download ORG/NAME`"
std::string download_advice(const std::string& repository);

}  // namespace diffulex_edge
