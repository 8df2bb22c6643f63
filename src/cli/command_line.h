// The command: parses arguments, runs a subcommand, turns errors into one line and the documented exit code.
#pragma once

namespace diffulex_edge::cli {

// Returns the exit code. Does not throw.
int run_command_line(int argc, char** argv);

}  // namespace diffulex_edge::cli
