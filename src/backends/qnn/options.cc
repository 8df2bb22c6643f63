#include "backends/qnn/options.h"

#include <algorithm>
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
    } else {
      throw Error(ErrorCode::kInvalidArgument, "backend option '" + name + "'", "is not known to the QNN backend");
    }
  }
  return options;
}

}  // namespace diffulex_edge::qnn
