#include "backends/qnn/options.h"

#include <algorithm>
#include <string_view>

#include "backends/option_values.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge::qnn {
namespace {

std::vector<const Soc*> parse_socs(std::string_view text) {
  std::vector<const Soc*> socs;
  while (true) {
    const std::size_t comma = text.find(',');
    const Soc& soc = parse_soc(text.substr(0, comma));
    if (std::ranges::find(socs, &soc) != socs.end()) {
      throw Error(ErrorCode::kInvalidArgument, "soc", "'" + std::string(soc.name) + "' is named twice");
    }
    socs.push_back(&soc);
    if (comma == std::string_view::npos) {
      return socs;
    }
    text.remove_prefix(comma + 1);
  }
}

}  // namespace

Options parse_options(const BackendConfig& config) {
  Options options;
  for (const auto& [name, value] : config.backend_options) {
    if (name == "soc") {
      options.socs = parse_socs(value);
    } else if (name == "qnn_python") {
      options.python = value;
    } else if (name == "embedding_on") {
      options.host_embedding = parse_choice(name, value, "npu", "host");
    } else if (name == "container") {
      options.as_pte = parse_choice(name, value, "onnx", "pte");
    } else if (name == "shards") {
      options.shards = parse_count(name, value, 1);
    } else {
      throw Error(ErrorCode::kInvalidArgument, "backend option '" + name + "'", "is not known to the QNN backend");
    }
  }
  if (options.as_pte && options.socs.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "container pte", "holds a context binary, and no SoC is named",
                "add --soc");
  }
  return options;
}

}  // namespace diffulex_edge::qnn
