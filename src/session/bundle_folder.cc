#include "session/bundle_folder.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "checkpoint/hub_cache.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/tokenizer.h"
#include "diffulex_edge/version.h"
#include "diffusion/bundled_generation.h"
#include "diffusion/decoding_settings.h"
#include "model_files/model_files.h"
#include "models/special_tokens.h"
#include "session/bundle_facts.h"
#include "tokenizer/tokenizer_files.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kToolTemplates = "additional_chat_templates";
// What chat templates are read from, and special tokens; the tokenizer's own files come to it.
constexpr std::array<std::string_view, 5> kModelFiles = {"tokenizer_config.json", "special_tokens_map.json",
                                                         "chat_template.json", "chat_template.jinja",
                                                         "additional_chat_templates/tool_use.jinja"};

std::int64_t bytes_of(const fs::path& path) {
  if (document_file(path) != path) {
    return std::ssize(document_text(path));
  }
  std::error_code error;
  const std::uintmax_t bytes = fs::file_size(path, error);
  if (error) {
    throw Error(ErrorCode::kBadFile, path.string(), "could not be read: " + error.message());
  }
  return static_cast<std::int64_t>(bytes);
}

void write_text(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) {
    throw Error(ErrorCode::kIo, path.string(), "could not be written");
  }
}

// Replacing a bundle would take the model away that lies in it.
void refuse_folder_of_model(const Model& model, const fs::path& target) {
  std::error_code error;
  const fs::path inside = fs::weakly_canonical(model.path, error);
  const fs::path outside = fs::weakly_canonical(target, error);
  if (std::ranges::mismatch(outside, inside).in1 == outside.end()) {
    throw Error(ErrorCode::kInvalidArgument, target.string(), "holds the model itself", "name another folder");
  }
}

std::string title_of(const Model& model) {
  if (const auto repository = cached_repository(model.path)) {
    return *repository;
  }
  const fs::path name = fs::weakly_canonical(model.path).filename();
  return name.empty() ? model.config.family : name.string();
}

std::string readme(const Model& model, const BackendDescription& backend, const BackendConfig& config,
                   const Bundle& bundle) {
  const QuantizationConfig& quantization = config.quant_config;
  const std::string title = title_of(model);
  const BundledModel& facts = bundle.model;
  std::string text = "# " + title + " for " + backend.title + "\n\n";
  text += "`" + bundle.artefact.name + "`: a model of the family " + facts.family + ", weights " +
          std::string(to_string(quantization.dtype)) + " (" + std::string(to_string(quantization.mode)) + "), for " +
          std::to_string(facts.max_tokens) + " tokens of prompt and text, cache: " + facts.cache + ".\n";
  text += "Made from the checkpoint " + title + " by diffulex-edge " + std::string(version()) +
          ", `diffulex-edge export " + title +
          " --bundle FOLDER`, with the options that `diffulex-edge inspect .` shows.\n";
  text +=
      "`generation.json` says what a program has to know of the model, and the artefact's SHA-256; the tokenizer's "
      "files make text of tokens.\n\n";
  if (fs::path(bundle.artefact.name).extension() == ".pte" && backend.name == "xnnpack") {
    text +=
        "To run it in this folder, with the C++ runner or in Python:\n\n"
        "    diffulex-edge-run . --prompt \"In the beginning\" --stats\n"
        "    python -m diffulex_edge generate . --prompt \"In the beginning\"\n";
  } else if (facts.cache != "none") {
    text +=
        "To read what it writes, where the vendor's runtime is, and to look into it:\n\n"
        "    python -m diffulex_edge generate . --prompt \"In the beginning\"\n"
        "    diffulex-edge inspect .\n";
  } else {
    text += "It computes whole sequences, without a cache. To look into it: `diffulex-edge inspect .`.\n";
  }
  if (has_window(model.config)) {
    text +=
        "\nIt is written token by token here. The decoding of its authors, in a window, needs tokens at positions of "
        "their own: `diffulex-edge generate` has it.\n";
  }
  if (!bundle.decoding.expand_id && find_expand_id(model)) {
    text +=
        "\nIts canvas keeps its length here, since an execution takes certain lengths only: its expand token is not "
        "followed. `diffulex-edge generate` does that.\n";
  }
  return text + "\nHow a device runs it: docs/USER_GUIDE.md, docs/ANDROID.md and docs/IOS.md of diffulex-edge.\n";
}

}  // namespace

bool is_only_a_bundle(const fs::path& folder) {
  std::string artefact;
  try {
    artefact = read_bundle(folder).artefact.name;
  } catch (const Error&) {
    return false;  // also one of another version: its files may have other names
  }
  const std::vector<std::string> tokenizer = tokenizer_file_names();
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const bool is_ours = name == kBundleFile || name == kBundleReadme || name == kToolTemplates || name == artefact ||
                         std::ranges::find(kModelFiles, name) != kModelFiles.end() || name == "config.json" ||
                         std::ranges::find(tokenizer, name) != tokenizer.end();
    if (!is_ours) {
      return false;
    }
  }
  return !error;
}

BundleFolder::BundleFolder(const Model& model, const std::string& backend, const BackendConfig& config,
                           const fs::path& target)
    : target_(target), model_folder_(model.path), documents_(hold_documents(model.path)) {
  const std::vector<fs::path> tokenizer = tokenizer_files(model.path);
  if (tokenizer.empty()) {
    throw Error(ErrorCode::kBadFile, model.path.string(),
                "has no tokenizer.json, and no other tokenizer, without which a bundle is none",
                "put it beside the weights, or write the artefact alone with -o");
  }
  static_cast<void>(Tokenizer(model.path));  // the runners read it as this library does
  const BackendDescription description = BackendRegistry::instance().describe(backend);
  bundle_.model = bundle_facts(model, description, config);
  ModelConfig known = model.config;
  known.mask_token_id = bundle_.model.mask_token_id;
  bundle_.decoding = bundled_decoding(known);
  if (bundle_.model.step_sizes.empty()) {  // a canvas that grows has any length
    bundle_.decoding.expand_id = find_expand_id(model);
  }
  bundle_.artefact.name = artefact_name(description, config);
  bundle_.artefact.backend = backend;
  readme_ = readme(model, description, config, bundle_);
  for (const fs::path& file : tokenizer) {
    copied_.push_back(file.filename().string());
  }
  for (const std::string_view name : kModelFiles) {
    if (has_document(model.path / name) && std::ranges::find(copied_, name) == copied_.end()) {
      copied_.emplace_back(name);
    }
  }
  refuse_folder_of_model(model, target);
  OutputFolder::check(target, is_only_a_bundle);
}

Bundle BundleFolder::described(const ArtefactDigest& artefact) const {
  Bundle bundle = bundle_;
  bundle.artefact.bytes = artefact.bytes;
  bundle.artefact.sha256 = artefact.sha256;
  return bundle;
}

std::int64_t BundleFolder::predicted_bytes(std::int64_t artefact_bytes) const {
  const std::string text =
      to_json(described({.bytes = artefact_bytes, .sha256 = bundle_.model.tokenizer_sha256}));  // as long as any
  std::int64_t bytes = artefact_bytes + std::ssize(text) + std::ssize(readme_);
  for (const std::string& name : copied_) {
    bytes += bytes_of(model_folder_ / name);
  }
  return bytes;
}

std::int64_t BundleFolder::write(const std::function<void(const fs::path&)>& write_artefact) const {
  OutputFolder folder(target_, is_only_a_bundle);
  const fs::path artefact = folder.path() / bundle_.artefact.name;
  write_artefact(artefact);
  for (const std::string& name : copied_) {
    folder.make_folder(fs::path(name).parent_path());
    copy_document(model_folder_ / name, folder.path() / name);
  }
  const ArtefactDigest digest = digest_of(artefact);
  write_text(folder.path() / kBundleFile, to_json(described(digest)));
  write_text(folder.path() / kBundleReadme, readme_);
  if (tokenizer_digest(folder.path()) != bundle_.model.tokenizer_sha256) {
    throw Error(ErrorCode::kBadFile, (model_folder_ / copied_.front()).string(),
                "was changed by another program meanwhile", "export again");
  }
  folder.commit();
  return predicted_bytes(digest.bytes);
}

}  // namespace diffulex_edge
