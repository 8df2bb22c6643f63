#include "backends/qnn/options.h"

#include <algorithm>
#include <string>

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
                  .as_pte = values.text("container") == "pte"};
  if (options.as_pte && options.socs.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "container pte", "holds a context binary, and no SoC is named",
                "add --soc");
  }
  return options;
}

}  // namespace diffulex_edge::qnn
