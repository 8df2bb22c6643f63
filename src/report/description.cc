#include "report/description.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "checkpoint/hub_cache.h"
#include "quant/expert_name.h"
#include "report/text_table.h"

namespace diffulex_edge {

std::vector<std::string> counted(const std::vector<std::string>& words) {
  std::vector<std::string> result;
  for (auto word = words.begin(); word != words.end();) {
    const auto end = std::find_if(word, words.end(), [&](const std::string& other) { return other != *word; });
    result.push_back(end - word == 1 ? *word : std::to_string(end - word) + " x " + *word);
    word = end;
  }
  return result;
}

std::string dtype_name(const QuantizationConfig& config) {
  return config.layer_formats.empty() ? std::string(to_string(config.dtype)) : "mixed";
}

std::string describe(const QuantizationConfig& config) {
  const bool is_mixed = !config.layer_formats.empty();
  std::string text = is_mixed ? "mixed precision" : dtype_name(config);
  const FormatRow& row = format_row(config.dtype);
  if (is_mixed || row.is_quantized()) {
    text += " " + std::string(to_string(config.mode));
  }
  if (!is_mixed && row.takes_groups) {
    text += config.group_size == 0 ? ", per channel" : ", groups of " + std::to_string(config.group_size);
  }
  if (config.palette_group != 0 && (is_mixed || row.has_codebook())) {
    text += ", a table for every " + std::to_string(config.palette_group) + " rows";
  }
  if (config.method != RoundingMethod::RTN) {
    text += ", rounded by " + std::string(to_string(config.method));
  }
  return text;
}

std::string describe_mask(std::int64_t block_length) {
  return block_length == 0 ? "bidirectional" : "block-causal, blocks of " + std::to_string(block_length);
}

std::string with_interval(const Estimate& estimate, int decimals) {
  if (!std::isfinite(estimate.low)) {
    return format_number(estimate.mean, decimals);
  }
  return format_number(estimate.mean, decimals) + " ± " + format_number((estimate.high - estimate.low) / 2.0, decimals);
}

std::int64_t total(const std::map<std::string, std::int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0},
                         [](std::int64_t sum, const auto& entry) { return sum + entry.second; });
}

std::string last_part(const std::filesystem::path& path) {
  if (const auto repository = cached_repository(path)) {
    return *repository;  // the folder's name is a commit's
  }
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

LayerName parse_layer_name(const std::string& layer) {
  if (const auto expert = parse_expert_name(layer)) {
    const LayerName group = parse_layer_name(expert->group);
    return {.block = group.block, .kind = group.kind + ".*." + expert->role};
  }
  constexpr std::string_view kPrefix = "layers.";
  if (layer.starts_with(kPrefix)) {
    std::int64_t block = 0;
    const char* end = layer.data() + layer.size();
    const auto [rest, error] = std::from_chars(layer.data() + kPrefix.size(), end, block);
    if (error == std::errc() && rest != end && *rest == '.') {
      return {.block = block, .kind = std::string(rest + 1, end)};
    }
  }
  return {.block = std::nullopt, .kind = layer};
}

std::string kind_of(const LayerPlan& plan) {
  const LayerName name = parse_layer_name(plan.layer);
  const std::string kind = name.block ? "layers.*." + name.kind : name.kind;
  return plan.role == LayerRole::kBias ? kind + " bias" : kind;
}

}  // namespace diffulex_edge
