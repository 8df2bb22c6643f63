// The folder that an export with --bundle writes: the artefact, and beside it what a program that writes text needs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bundle/bundle.h"
#include "core/output_folder.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/model.h"

namespace diffulex_edge {

class BundleFolder {
 public:
  // Errors, before any work: kBadFile for a model without a tokenizer that this library reads, kInvalidArgument for a
  // diffusion model whose mask token nobody says, a target that holds the model, and an artefact that can't write text;
  // kIo for a target that can't be made, or that would replace what is no bundle.
  BundleFolder(const Model& model, const std::string& backend, const BackendConfig& config,
               const std::filesystem::path& target);

  // Has `write_artefact` write the artefact, and adds the rest. All of it appears at once. Returns the bytes of all
  // files. Throws Error{kIo}, and what `write_artefact` does.
  std::int64_t write(const std::function<void(const std::filesystem::path& artefact)>& write_artefact) const;
  // What write() would return for an artefact of so many bytes.
  std::int64_t predicted_bytes(std::int64_t artefact_bytes) const;

 private:
  Bundle described(const ArtefactDigest& artefact) const;

  std::filesystem::path target_;
  Bundle bundle_;
  std::string readme_;
  std::filesystem::path model_folder_;
  std::shared_ptr<const void> documents_;  // of a GGUF file: made once
  std::vector<std::string> copied_;        // files of the model's folder
};

// Whether a folder holds a bundle of this version and nothing else, so that another may take its place.
bool is_only_a_bundle(const std::filesystem::path& folder);

}  // namespace diffulex_edge
