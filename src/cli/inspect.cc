// diffulex-edge inspect FILE|DIR

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/options.h"
#include "diffulex_edge/inspection.h"
#include "diffulex_edge/report.h"

namespace diffulex_edge::cli {
namespace {

struct InspectArguments {
  std::string path;
  bool no_hash = false;
  OutputOptions output_options;
};

}  // namespace

Command add_inspect(CLI::App& app) {
  CLI::App* command = app.add_subcommand("inspect", "Show what is in a checkpoint, a .pte file or a Core ML package");
  const auto arguments = std::make_shared<InspectArguments>();
  command
      ->add_option("PATH", arguments->path,
                   "A model folder, a .safetensors file, a .pte file, a .mlpackage or a folder of them")
      ->required();
  command->add_flag("--no-hash", arguments->no_hash, "Don't read every byte for SHA-256");
  arguments->output_options.add_to(*command);
  const auto run = [arguments](std::stop_token stop) {
    const Inspection inspection = inspect(arguments->path, {.hashes = !arguments->no_hash},
                                          {.threads = arguments->output_options.threads, .stop = std::move(stop)});
    print_line(arguments->output_options.json ? to_json(inspection) : to_text(inspection));
  };
  return {.app = command, .json = &arguments->output_options.json, .run = run};
}

}  // namespace diffulex_edge::cli
