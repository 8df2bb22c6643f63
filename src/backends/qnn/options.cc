#include "backends/qnn/options.h"

#include <algorithm>
#include <string>

#include "backends/cache_plan.h"
#include "backends/option_values.h"
#include "backends/qnn/description.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge::qnn {
namespace {

std::vector<const Soc*> parse_socs(const std::vector<std::string>& names) {
  std::vector<const Soc*> socs;
  for (const std::string& name : names) {
    const Soc& soc = parse_soc(name);
    if (std::ranges::find(socs, &soc) != socs.end()) {
      throw Error(ErrorCode::kInvalidArgument, "soc", "'" + std::string(soc.name) + "' is named twice");
    }
    socs.push_back(&soc);
  }
  return socs;
}

}  // namespace

Options parse_options(const BackendConfig& config) {
  const OptionValues values(description(), config.backend_options);
  Options options{.socs = parse_socs(values.list("soc")),
                  .python = values.text("qnn_python"),
                  .host_embedding = values.text("embedding_on") == "host",
                  .shards = values.count("shards"),
                  .as_pte = values.text("container") == "pte",
                  .share_weights = values.is_on("share_weights")};
  if (options.as_pte && options.socs.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "container pte", "holds a context binary, and no SoC is named",
                "add --soc");
  }
  if (options.share_weights && (options.socs.empty() || values.count("cache") == 0)) {
    throw Error(ErrorCode::kInvalidArgument, "share weights", "is for the context binaries of a model with a cache",
                "add --soc and --cache TOKENS");
  }
  if (options.share_weights && options.as_pte) {
    throw Error(ErrorCode::kUnsupported, "container pte", "holds the binary of one graph, and these share theirs",
                "leave out --share-weights");
  }
  return options;
}

std::optional<CacheSettings> parse_cache(const BackendConfig& config, const Model& model, bool is_static) {
  const OptionValues values(description(), config.backend_options);
  const std::optional<CachePlan> plan = read_cache_plan(values, model);
  if (!plan) {
    return std::nullopt;
  }
  const bool in_8_bits = plan->dtype == DType::kI8;
  if (in_8_bits && !is_static) {
    throw Error(ErrorCode::kInvalidArgument, "cache dtype int8", "is for mode static: others compute in floating point",
                "leave it out, or add --mode static");
  }
  return CacheSettings{.tokens = plan->tokens,
                       .block_sizes = plan->block_sizes,
                       .is_bidirectional = plan->is_bidirectional,
                       .in_8_bits = in_8_bits};
}

}  // namespace diffulex_edge::qnn
