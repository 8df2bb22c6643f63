// diffulex-edge inspect FILE|DIR

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/options.h"
#include "diffulex_edge/backend_description.h"
#include "diffulex_edge/inspection.h"
#include "diffulex_edge/report.h"

namespace diffulex_edge::cli {
namespace {

struct InspectArguments {
  std::string path;
  bool no_hash = false;
  std::vector<std::string> ignored_config_keys;
  OutputOptions output_options;
};

std::string known_paths() {
  std::string text = "A model folder, a .safetensors file, a bundle";
  for (const ArtefactReader& reader : artefact_readers()) {
    text += ", " + reader.what;
  }
  return text;
}

}  // namespace

Command add_inspect(CLI::App& app) {
  CLI::App* command = app.add_subcommand("inspect", "Show what is in a checkpoint or an artefact");
  const auto arguments = std::make_shared<InspectArguments>();
  command->add_option("PATH", arguments->path, known_paths())->required();
  command->add_flag("--no-hash", arguments->no_hash, "Don't read every byte for SHA-256");
  add_ignored_config_keys(*command, arguments->ignored_config_keys);
  arguments->output_options.add_to(*command);
  const auto run = [arguments](std::stop_token stop) {
    const Inspection inspection =
        inspect(arguments->path, {.hashes = !arguments->no_hash, .ignored_config_keys = arguments->ignored_config_keys},
                {.threads = arguments->output_options.threads, .stop = std::move(stop)});
    print_line(arguments->output_options.json ? to_json(inspection) : to_text(inspection));
  };
  return {.app = command, .json = &arguments->output_options.json, .run = run};
}

}  // namespace diffulex_edge::cli
