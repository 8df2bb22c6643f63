// The subcommands. Each adds itself to the command line and returns what runs when it was chosen.
#pragma once

#include <CLI/App.hpp>
#include <functional>
#include <stop_token>
#include <string>

namespace diffulex_edge::cli {

struct Command {
  CLI::App* app = nullptr;
  const bool* json = nullptr;                // whether --json was given
  std::function<void(std::stop_token)> run;  // throws Error
};

// `command_line` is what reports show as the way to themselves.
Command add_export(CLI::App& app, std::string command_line);
Command add_quantize(CLI::App& app);
Command add_evaluate(CLI::App& app, std::string command_line);
Command add_plan(CLI::App& app, std::string command_line);
Command add_inspect(CLI::App& app);
Command add_matrix(CLI::App& app);

}  // namespace diffulex_edge::cli
