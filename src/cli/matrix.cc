// diffulex-edge matrix

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "diffulex_edge/report.h"

namespace diffulex_edge::cli {

Command add_matrix(CLI::App& app) {
  CLI::App* command = app.add_subcommand("matrix", "Print which format runs on which backend in this build");
  const auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "Print one JSON object on stdout and nothing else there");
  return {.app = command, .json = json.get(), .run = [json](const std::stop_token&) {
            fmt::print("{}\n", *json ? matrix_json() : matrix_text());
          }};
}

}  // namespace diffulex_edge::cli
