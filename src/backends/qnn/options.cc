#include "backends/qnn/options.h"

#include <algorithm>
#include <charconv>
#include <string_view>

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
      if (value != "npu" && value != "host") {
        throw Error(ErrorCode::kInvalidArgument, "embedding_on", "'" + value + "' is neither npu nor host");
      }
      options.host_embedding = value == "host";
    } else if (name == "container") {
      if (value != "onnx" && value != "pte") {
        throw Error(ErrorCode::kInvalidArgument, "container", "'" + value + "' is neither onnx nor pte");
      }
      options.as_pte = value == "pte";
    } else if (name == "shards") {
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), options.shards);
      if (error != std::errc() || end != value.data() + value.size() || options.shards < 1) {
        throw Error(ErrorCode::kInvalidArgument, "shards", "'" + value + "' is not a whole number of at least 1");
      }
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
