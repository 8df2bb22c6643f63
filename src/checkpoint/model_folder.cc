#include "checkpoint/model_folder.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <system_error>
#include <vector>

#include "checkpoint/hub_cache.h"
#include "core/join.h"
#include "core/json.h"
#include "core/links.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWeights = "model.safetensors";
constexpr std::string_view kIndex = "model.safetensors.index.json";
constexpr std::string_view kAdapterConfig = "adapter_config.json";
constexpr std::string_view kAdapterWeights = "adapter_model.safetensors";
constexpr std::size_t kMaxConfigBytes = 16U << 20U;

// The names in a folder, in order.
std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

std::vector<std::string> names_with(const std::vector<std::string>& names, std::string_view ending) {
  std::vector<std::string> found;
  std::ranges::copy_if(names, std::back_inserter(found),
                       [&](const std::string& name) { return name.ends_with(ending) && name != kAdapterWeights; });
  return found;
}

std::optional<std::string> pickled_in(const std::vector<std::string>& names) {
  const auto found = std::ranges::find_if(names, [](const std::string& name) {
    return name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth");
  });
  return found == names.end() ? std::nullopt : std::optional(*found);
}

// The names of some files, as a sentence has them.
std::string listed(const std::vector<std::string>& names) {
  constexpr std::size_t kMost = 3;
  if (names.size() > kMost) {
    return names.front() + " and " + std::to_string(names.size() - 1) + " more";
  }
  return join(names, ", ", " and ", [](const std::string& name) { return name; });
}

// Parameter-efficient fine-tuning keeps what it added to another model.
bool is_adapter(const fs::path& folder) {
  return is_present(folder / kAdapterConfig) && !is_present(folder / kWeights) && !is_present(folder / kIndex);
}

// The folder of the model that an adapter was trained on, which is no adapter itself.
fs::path find_base(const fs::path& adapter) {
  const fs::path path = adapter / kAdapterConfig;
  const nlohmann::json config = read_json_file(path, kMaxConfigBytes, JsonNumbers::kPython);
  const auto found = config.is_object() ? config.find("base_model_name_or_path") : config.end();
  const std::string advice = "name the model it was trained on, and say --adapter " + adapter.string();
  if (found == config.end() || !found->is_string() || found->get<std::string>().empty()) {
    throw Error(ErrorCode::kBadFile, path.string(), "this is an adapter, and does not say of which model", advice);
  }
  const auto name = found->get<std::string>();
  const std::string what = "this is an adapter of the model " + name;
  fs::path base;
  try {
    base = find_folder(name);
  } catch (const Error& error) {
    throw Error(ErrorCode::kBadFile, path.string(), what + ", which " + error.problem(), error.advice());
  }
  std::error_code error;
  if (!fs::exists(base, error)) {
    throw Error(ErrorCode::kBadFile, path.string(), what + ", which is not there", advice);
  }
  if (is_adapter(base)) {
    throw Error(ErrorCode::kUnsupported, path.string(), what + ", which is an adapter too", "merge that one first");
  }
  return base;
}

// A folder of the hub's cache has all that was downloaded.
void refuse_incomplete_download(const fs::path& folder, const std::string& missing) {
  if (const auto repository = cached_repository(folder)) {
    throw Error(ErrorCode::kBadFile, folder.string(), missing + ": the download is incomplete",
                download_advice(*repository));
  }
}

// A shard has its number and their count in its name.
bool is_shard(const std::string& name) { return name.find("-of-") != std::string::npos; }

[[noreturn]] void fail_without_weights(const fs::path& folder, const std::vector<std::string>& names) {
  const std::vector<std::string> files = names_with(names, ".safetensors");
  if (std::ranges::any_of(files, is_shard)) {
    throw Error(ErrorCode::kBadFile, folder.string(), "has " + listed(files) + ", but no " + std::string(kIndex),
                "it says which shard has which tensor: download it too");
  }
  if (!files.empty()) {
    throw Error(ErrorCode::kBadFile, folder.string(), "has no model.safetensors, but " + listed(files),
                "name the one that holds the model model.safetensors");
  }
  if (const auto pickled = pickled_in(names)) {
    throw Error(ErrorCode::kBadFile, folder.string(), "has no model.safetensors, but " + *pickled,
                "pickled weights are programs and not read: with transformers, "
                "AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True).save_pretrained(NEW_FOLDER, "
                "safe_serialization=True) writes safetensors");
  }
  const std::string missing = "has no model.safetensors and no model.safetensors.index.json";
  refuse_incomplete_download(folder, missing);
  throw Error(ErrorCode::kBadFile, folder.string(), missing);
}

}  // namespace

ModelPlace find_model(const fs::path& name) {
  const fs::path folder = find_folder(name);
  return is_adapter(folder) ? ModelPlace{.folder = find_base(folder), .adapter = folder}
                            : ModelPlace{.folder = folder, .adapter = {}};
}

fs::path find_model_folder(const fs::path& name) { return find_model(name).folder; }

bool WeightFiles::is_usual() const { return file.filename() == kWeights || index.filename() == kIndex; }

WeightFiles find_weight_files(const fs::path& folder) {
  if (is_present(folder / kWeights)) {
    return {.file = folder / kWeights, .index = {}};
  }
  if (is_present(folder / kIndex)) {
    return {.file = {}, .index = folder / kIndex};
  }
  const std::vector<std::string> names = names_in(folder);
  const std::vector<std::string> indexes = names_with(names, ".safetensors.index.json");
  if (indexes.size() == 1) {
    return {.file = {}, .index = folder / indexes.front()};
  }
  const std::vector<std::string> files = names_with(names, ".safetensors");
  if (indexes.empty() && files.size() == 1 && !is_shard(files.front())) {
    return {.file = folder / files.front(), .index = {}};
  }
  fail_without_weights(folder, names);
}

void fail_without_config(const fs::path& folder) {
  const std::string missing = "has no config.json";
  refuse_incomplete_download(folder, missing);
  if (const auto pickled = pickled_in(names_in(folder))) {
    throw Error(ErrorCode::kBadFile, folder.string(), missing + ", but " + *pickled,
                "it is in its authors' own layout: take the model's Hugging Face version, or convert it with "
                "transformers");
  }
  throw Error(ErrorCode::kBadFile, (folder / "config.json").string(), "is not there",
              "name a model folder with config.json and safetensors files");
}

}  // namespace diffulex_edge
