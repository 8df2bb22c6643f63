// diffulex-edge matrix

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/console.h"
#include "diffulex_edge/report.h"

namespace diffulex_edge::cli {

Command add_matrix(CLI::App& app) {
  CLI::App* command = app.add_subcommand("matrix", "Print which format runs on which backend in this build");
  const auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "Print one JSON object on stdout and nothing else there");
  return {.app = command, .json = json.get(), .run = [json](const std::stop_token&) {
            print_line(*json ? matrix_json() : matrix_text());
          }};
}

}  // namespace diffulex_edge::cli
