// generation.json to a Bundle. The file may have been changed by anyone: each value has its bounds.
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "bundle/bundle.h"
#include "bundle/bundle_format.h"
#include "core/json.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 20U;
// Of tokens and of a vocabulary: far beyond any model's, and small enough for every product of two.
constexpr std::int64_t kMostTokens = std::int64_t{1} << 24U;
constexpr std::size_t kSha256Digits = 64;

class Members {
 public:
  Members(const nlohmann::json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object_.is_object()) {
      fail("is not an object");
    }
  }

  Members object(const char* key) const { return {require(key), where_ + ": '" + key + "'"}; }

  std::string text(const char* key) const {
    const nlohmann::json& value = require(key);
    if (!value.is_string()) {
      fail(key, "is not a text");
    }
    return value.get<std::string>();
  }

  std::string one_of(const char* key, std::span<const std::string_view> names) const {
    std::string found = text(key);
    if (std::ranges::find(names, found) == names.end()) {
      fail(key, "is '" + found + "', which this version does not know");
    }
    return found;
  }

  std::int64_t number(const char* key, std::int64_t least, std::int64_t most) const {
    return checked(require(key), key, least, most);
  }

  std::optional<std::int64_t> number_if_given(const char* key, std::int64_t least, std::int64_t most) const {
    return has(key) ? std::optional(number(key, least, most)) : std::nullopt;
  }

  std::vector<std::int64_t> numbers(const char* key, std::int64_t least, std::int64_t most) const {
    const nlohmann::json& value = require(key);
    if (!value.is_array()) {
      fail(key, "is not a list");
    }
    std::vector<std::int64_t> found;
    for (const nlohmann::json& each : value) {
      found.push_back(checked(each, key, least, most));
    }
    return found;
  }

  bool flag(const char* key) const {
    const nlohmann::json& value = require(key);
    if (!value.is_boolean()) {
      fail(key, "is neither true nor false");
    }
    return value.get<bool>();
  }

  double real(const char* key) const {
    const nlohmann::json& value = require(key);
    if (!value.is_number()) {
      fail(key, "is not a number");
    }
    return value.get<double>();
  }

  bool has(const char* key) const {
    const auto found = object_.find(key);
    return found != object_.end() && !found->is_null();
  }

  [[noreturn]] void fail(const char* key, const std::string& what) const {
    throw Error(ErrorCode::kBadFile, where_ + ": '" + key + "'", what, "make the bundle anew");
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::kBadFile, where_, what, "make the bundle anew");
  }

  const nlohmann::json& require(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) {
      fail(key, "is missing");
    }
    return *found;
  }

  std::int64_t checked(const nlohmann::json& value, const char* key, std::int64_t least, std::int64_t most) const {
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() && !std::in_range<std::int64_t>(value.get<std::uint64_t>()))) {
      fail(key, "is not a whole number");
    }
    const auto number = value.get<std::int64_t>();
    if (number < least || number > most) {
      fail(key, std::to_string(number) + " is not in " + std::to_string(least) + ".." + std::to_string(most));
    }
    return number;
  }

  const nlohmann::json& object_;
  std::string where_;
};

std::string read_sha256(const Members& members, const char* key) {
  std::string digest = members.text(key);
  if (digest.size() != kSha256Digits || digest.find_first_not_of("0123456789abcdef") != std::string::npos) {
    members.fail(key, "is no SHA-256 of 64 lower-case digits");
  }
  return digest;
}

BundledArtefact read_artefact(const Members& members) {
  BundledArtefact artefact{.name = members.text("name"), .backend = members.text("backend")};
  // A part of the bundle, not of what lies beside it.
  if (artefact.name.empty() || artefact.name.front() == '.' ||
      artefact.name.find_first_of("/\\") != std::string::npos || artefact.name.find('\0') != std::string::npos) {
    members.fail("name", "is not the name of a file in the bundle");
  }
  constexpr std::int64_t kMostBytes = std::int64_t{1} << 60U;
  artefact.bytes = members.number("bytes", 0, kMostBytes);
  artefact.sha256 = read_sha256(members, "sha256");
  return artefact;
}

BundledModel read_model(const Members& members) {
  constexpr std::array<std::string_view, 3> kCaches = {"none", "exact", "approximate"};
  constexpr std::array<std::string_view, 3> kLogits = {"all", "last", "rows"};
  BundledModel model{.family = members.text("family"), .vocab_size = members.number("vocab_size", 1, kMostTokens)};
  const std::int64_t last_token = model.vocab_size - 1;
  model.block_length = members.number("block_length", 0, kMostTokens);
  model.mask_token_id = members.number_if_given("mask_token_id", 0, last_token);
  model.eos_ids = members.numbers("eos_ids", 0, last_token);
  model.bos_id = members.number_if_given("bos_id", 0, last_token);
  model.has_shifted_logits = members.flag("shifted_logits");
  model.max_tokens = members.number("max_tokens", 1, kMostTokens);
  model.max_step_tokens = members.number("max_step_tokens", 1, model.max_tokens);
  model.step_sizes = members.numbers("step_sizes", 1, model.max_step_tokens);
  model.cache = members.one_of("cache", kCaches);
  model.logits = members.one_of("logits", kLogits);
  model.tokenizer_sha256 = read_sha256(members, "tokenizer_sha256");
  const bool is_bidirectional = model.block_length == 0;
  if (model.cache != "none" && (model.cache == "approximate") != is_bidirectional) {
    members.fail("cache", "'" + model.cache + "' is not the cache of a model whose block length is " +
                              std::to_string(model.block_length));
  }
  if (model.block_length != 1 && !model.mask_token_id) {
    members.fail("mask_token_id", "is missing: a diffusion model masks what it has yet to write");
  }
  return model;
}

BundledDecoding read_decoding(const Members& members) {
  BundledDecoding decoding{.max_new_tokens = members.number("max_new_tokens", 1, kMostTokens),
                           .temperature = members.real("temperature")};
  if (members.has("remasking")) {
    decoding.remasking = members.text("remasking");
  }
  if (members.has("threshold")) {
    decoding.threshold = members.real("threshold");
  }
  decoding.block_length = members.number_if_given("block_length", 1, kMostTokens);
  decoding.sub_block_length = members.number_if_given("sub_block_length", 1, kMostTokens);
  if (members.has("editing_threshold")) {
    decoding.editing_threshold = members.real("editing_threshold");
  }
  decoding.max_post_steps = members.number_if_given("max_post_steps", 0, kMostTokens);
  decoding.expand_id = members.number_if_given("expand_id", 0, kMostTokens);
  decoding.initial_masks = members.number_if_given("initial_masks", 1, kMostTokens);
  return decoding;
}

}  // namespace

bool is_bundle(const std::filesystem::path& folder) {
  return has_json_format(folder / kBundleFile, kBundleFormat, kMaxFileBytes);
}

Bundle read_bundle(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kBundleFile;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    throw Error(ErrorCode::kBadFile, folder.string(), "is no bundle: it has no " + std::string(kBundleFile),
                "make one with `diffulex-edge export MODEL --bundle FOLDER`");
  }
  const nlohmann::json document = read_json_file(path, kMaxFileBytes);
  const Members members(document, path.string());
  if (members.text("format") != kBundleFormat) {
    members.fail("format", "is not '" + std::string(kBundleFormat) + "'");
  }
  const std::int64_t version = members.number("version", 0, kMostTokens);
  if (version < kPlainVersion || version > kBundleVersion) {
    throw Error(
        ErrorCode::kUnsupported, path.string(),
        "is of version " + std::to_string(version) + ", this program reads up to " + std::to_string(kBundleVersion),
        "make the bundle anew, or use the program of its version");
  }
  return {.folder = folder,
          .artefact = read_artefact(members.object("artefact")),
          .model = read_model(members.object("model")),
          .decoding = read_decoding(members.object("decoding"))};
}

}  // namespace diffulex_edge
