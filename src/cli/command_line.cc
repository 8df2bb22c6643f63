#include "cli/command_line.h"

#include <fmt/core.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): POSIX, SIGXFSZ

#include <CLI/CLI.hpp>
#include <exception>
#include <new>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "cli/machine.h"
#include "cli/report_file.h"
#include "core/exit_code.h"
#include "core/join.h"
#include "core/printable.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/version.h"

namespace diffulex_edge::cli {
namespace {

void print_error(std::string_view sentence) { print_message(fmt::format("diffulex-edge: error: {}\n", sentence)); }

int report(const Error& error, bool json) {
  print_error(error.what());
  if (json) {
    const nlohmann::ordered_json document{
        {"success", false}, {"error", error.what()}, {"code", to_string(error.code())}};
    try {
      print_line(document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
      flush_output();
    } catch (const Error&) {
      return exit_code(error.code());  // stderr has the sentence
    }
  }
  return exit_code(error.code());
}

int run(const Command& command) {
  ::signal(SIGXFSZ, SIG_IGN);  // a file beyond `ulimit -f` fails with EFBIG
  const bool json = *command.json;
  int signal = 0;
  int code = 0;
  {
    const InterruptGuard interrupt;
    try {
      command.run(interrupt.token());
      flush_output();
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kCancelled) {
        print_message(fmt::format("diffulex-edge: {}\n",
                                  error.advice().empty() ? "stopped, nothing was written" : error.advice()));
        code = exit_code(error.code());
        signal = InterruptGuard::signal();
      } else {
        code = report(error, json);
      }
    } catch (const std::bad_alloc&) {
      code = report(Error(ErrorCode::kOutOfMemory, {}, "out of memory"), json);
    } catch (const std::exception& error) {
      code = report(Error(ErrorCode::kInternal, "internal error", error.what(), "please report this"), json);
    }
  }
  if (signal != 0) {
    die_of(signal);
  }
  return code;
}

std::string unknown_command(const CLI::App& app, std::string_view word) {
  const auto name_of = [](const CLI::App* command) { return command->get_name(); };
  return fmt::format("'{}' is not one of {}", word, join(app.get_subcommands({}), ", ", name_of));
}

int parse_and_run(int argc, char** argv) {
  CLI::App app("Takes a diffusion language model from its Hugging Face checkpoint to an edge device.", "diffulex-edge");
  bool asked = false;
  CLI::Option* verbose = app.add_flag("--verbose", asked, "With --version: which kernels run on this machine");
  app.set_version_flag("--version", [verbose] {
    const std::string line = fmt::format("diffulex-edge {} ({} kernels)", version(), instruction_set());
    return verbose->count() > 0 ? line + "\n" + describe_machine() : line;
  });
  verbose->needs("--version");
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, 2 wrong usage, 3 bad input file, 4 not supported, 5 output could not be written, "
      "1 anything else.");
  const std::string command_line = quote_command(argc, argv);
  const std::vector<Command> commands = {add_generate(app),
                                         add_chat(app),
                                         add_serve(app),
                                         add_export(app, command_line),
                                         add_quantize(app),
                                         add_evaluate(app, command_line),
                                         add_plan(app, command_line),
                                         add_bench(app),
                                         add_inspect(app),
                                         add_matrix(app)};
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    const std::vector<CLI::App*> chosen = app.get_subcommands();
    const std::string help = chosen.empty() ? "" : " " + chosen.front()->get_name();
    const bool is_unknown = chosen.empty() && argc > 1 && *argv[1] != '-';
    const std::string what = is_unknown ? unknown_command(app, argv[1]) : error.what();
    print_error(printable(fmt::format("{} (see diffulex-edge{} --help)", what, help)));
    return exit_code(ErrorCode::kInvalidArgument);
  }
  for (const Command& command : commands) {
    if (command.app->parsed()) {
      return run(command);
    }
  }
  return exit_code(ErrorCode::kInternal);
}

}  // namespace

int run_command_line(int argc, char** argv) {
  try {
    return parse_and_run(argc, argv);
  } catch (const std::bad_alloc&) {
    print_message("diffulex-edge: error: out of memory\n");
    return exit_code(ErrorCode::kOutOfMemory);
  } catch (const std::exception& error) {
    print_message(fmt::format("diffulex-edge: error: internal error: {} (please report this)\n", error.what()));
    return exit_code(ErrorCode::kInternal);
  }
}

}  // namespace diffulex_edge::cli
