// A bundle: a folder with an artefact, its tokenizer, and generation.json, which says what a program that writes text
// with it has to know. What is in the file: docs/USER_GUIDE.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace diffulex_edge {

inline constexpr std::string_view kBundleFile = "generation.json";
inline constexpr std::string_view kBundleReadme = "README.md";

struct BundledArtefact {
  std::string name;  // of the file or folder in the bundle
  std::string backend;
  std::int64_t bytes = 0;
  // Of the file; of a folder that of the lines "SHA-256  PATH\n" of its files, ordered by path.
  std::string sha256;
};

// Of the language model, as the artefact has it.
struct BundledModel {
  std::string family;
  std::int64_t vocab_size = 0;
  std::int64_t block_length = 0;  // 0: bidirectional, 1: autoregressive
  std::optional<std::int64_t> mask_token_id;
  std::vector<std::int64_t> eos_ids;
  std::optional<std::int64_t> bos_id;
  bool has_shifted_logits = false;
  std::int64_t max_tokens = 0;           // of prompt and text together
  std::int64_t max_step_tokens = 0;      // of one execution
  std::vector<std::int64_t> step_sizes;  // the only numbers of tokens that an execution takes; none: any up to that
  std::string cache = "none";            // "exact", "approximate"
  std::string logits = "all";            // "last", "rows"
  std::string tokenizer_sha256;
};

// How the family's authors decode; what is absent has no fixed value. Names and meanings are those of
// DiffusionGenerationConfig.
struct BundledDecoding {
  std::int64_t max_new_tokens = 0;
  double temperature = 0.0;
  std::optional<std::string> remasking;
  std::optional<double> threshold;
  std::optional<std::int64_t> block_length;
  std::optional<std::int64_t> sub_block_length;
  std::optional<double> editing_threshold;
  std::optional<std::int64_t> max_post_steps;
  std::optional<std::int64_t> expand_id;  // a reader that does not know it would write at a fixed length: version 2
  std::optional<std::int64_t> initial_masks;
};

struct Bundle {
  std::filesystem::path folder;  // is not in the file
  BundledArtefact artefact;
  BundledModel model;
  BundledDecoding decoding;

  std::filesystem::path artefact_path() const { return folder / artefact.name; }
};

// Whether the folder has a generation.json of this kind, of any version.
bool is_bundle(const std::filesystem::path& folder);

// Throws Error{kBadFile} where there is no bundle, and naming the key where generation.json contradicts itself;
// Error{kUnsupported} for another version. Does not look at the artefact.
Bundle read_bundle(const std::filesystem::path& folder);

// The file's text.
std::string to_json(const Bundle& bundle);

// As BundledArtefact has them. Throws Error{kBadFile} for what can't be read.
struct ArtefactDigest {
  std::int64_t bytes = 0;
  std::string sha256;
};
ArtefactDigest digest_of_file(const std::filesystem::path& path);
// Of a model's document (model_files/model_files.h), as copy_document writes it.
ArtefactDigest digest_of_document(const std::filesystem::path& path);
ArtefactDigest digest_of(const std::filesystem::path& artefact);

// The SHA-256 of a folder's tokenizer.json; where the tokenizer has other files (tokenizer_files()), that of the lines
// "SHA-256  NAME\n" of all of them, ordered by name. No value: there is no tokenizer.
std::optional<std::string> tokenizer_digest(const std::filesystem::path& folder);

// Throws Error{kBadFile} unless the artefact and the tokenizer are those that generation.json describes: what is
// damaged or cut off is found before somebody executes it.
void check_files(const Bundle& bundle);

}  // namespace diffulex_edge
