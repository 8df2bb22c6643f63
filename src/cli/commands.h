// The subcommands. Each adds itself to the command line and returns what runs when it was chosen.
#pragma once

#include <CLI/App.hpp>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <utility>

namespace diffulex_edge::cli {

struct Command {
  CLI::App* app = nullptr;
  const bool* json = nullptr;                // whether --json was given
  std::function<void(std::stop_token)> run;  // throws Error
};

// A command whose work is run(arguments, stop); `Arguments` has OutputOptions output_options.
template <typename Arguments>
Command make_command(CLI::App* app, std::shared_ptr<Arguments> arguments,
                     void (*run)(const Arguments&, std::stop_token)) {
  const bool* json = &arguments->output_options.json;
  return {.app = app, .json = json, .run = [arguments = std::move(arguments), run](std::stop_token stop) {
            run(*arguments, std::move(stop));
          }};
}

// `command_line` is what reports show as the way to themselves.
Command add_export(CLI::App& app, std::string command_line);
Command add_quantize(CLI::App& app);
Command add_evaluate(CLI::App& app, std::string command_line);
Command add_generate(CLI::App& app);
Command add_chat(CLI::App& app);
Command add_bench(CLI::App& app);
Command add_serve(CLI::App& app);
Command add_plan(CLI::App& app, std::string command_line);
Command add_inspect(CLI::App& app);
Command add_matrix(CLI::App& app);

}  // namespace diffulex_edge::cli
