// diffulex-edge chat MODEL

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/canvas_view.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/generation_arguments.h"
#include "cli/interrupt.h"
#include "cli/line_reader.h"
#include "cli/options.h"
#include "cli/runtime_arguments.h"
#include "core/output_file.h"
#include "core/printable.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/error.h"
#include "diffusion/chat_session.h"
#include "diffusion/text_model.h"
#include "report/text_table.h"

namespace diffulex_edge::cli {
namespace {

constexpr std::string_view kHelp =
    "/reset       forget what was said\n"
    "/save FILE   write the conversation, as JSON\n"
    "/load FILE   go on with a conversation that /save wrote\n"
    "/help        this\n"
    "/exit        the end, as Ctrl-D\n"
    "Ctrl-C ends an answer. A backslash at the end of a line goes on in the next one; a paste may have many lines.\n";

constexpr std::string_view kSpaces = " \t\r\n";

struct ChatArguments {
  TextModelArguments model;
  GenerationArguments generation;
  OutputOptions output_options;
  std::string system;
  std::string template_variables;
  std::vector<std::string> stops;
  std::optional<std::int64_t> capacity;
  bool visual = false;
};

struct ChatCommand {
  std::string name;  // with its slash; empty: the line is a message
  std::string file;
};

// A command is one line that begins with a slash and letters; other text may begin with a path.
ChatCommand parse_command(std::string_view line) {
  const std::size_t end = line.find_last_not_of(kSpaces);
  line = line.substr(0, end == std::string_view::npos ? 0 : end + 1);
  const std::size_t space = line.find(' ');
  const std::string_view name = line.substr(0, space);
  const bool is_command =
      name.size() > 1 && name.front() == '/' && line.find('\n') == std::string_view::npos &&
      std::ranges::all_of(name.substr(1), [](char letter) { return letter >= 'a' && letter <= 'z'; });
  if (!is_command) {
    return {};
  }
  const std::size_t file = std::min(line.find_first_not_of(' ', name.size()), line.size());
  return {.name = std::string(name), .file = std::string(line.substr(file))};
}

// Follows one answer on the screen.
class AnswerView {
 public:
  AnswerView(const ChatArguments& arguments, const TextModel& model) {
    if (arguments.visual) {
      canvas_.emplace(model.tokenizer());
    }
  }

  void take(const GenerationState& state, const std::string& text) {
    if (canvas_) {
      canvas_->show(state);
    } else {
      print_text(text);
      flush_output();
    }
  }

  void finish(const ChatSession::Answer& answer) {
    if (canvas_) {
      canvas_->clear();
      print_line(answer.text);
    } else {
      print_line(answer.rest);
    }
    flush_output();
  }

 private:
  std::optional<CanvasView> canvas_;
};

class Conversation {
 public:
  Conversation(const ChatArguments& arguments, const TextModel& model, ChatSession& session)
      : arguments_(arguments), model_(model), session_(session) {}

  // Until the end of the input. A turn that can't be says why, and the next one follows.
  void run() {
    while (true) {
      const InputLine line = reader_.read();
      const ChatCommand command = parse_command(line.text);
      if (line.kind == InputLine::Kind::kEnd || command.name == "/exit") {
        return;
      }
      if (line.kind == InputLine::Kind::kInterrupt) {
        tell("Ctrl-D or /exit ends the conversation\n");
        continue;
      }
      try {
        take(line.text, command);
      } catch (const Error& error) {
        if (std::ferror(stdout) != 0) {
          throw;
        }
        print_message(fmt::format("diffulex-edge: error: {}\n", error.what()));
        has_failed_ = true;
      }
      InterruptGuard::take_interrupt();  // it was this turn's
      if (InterruptGuard::signal() != 0) {
        return;
      }
    }
  }

  bool has_failed() const { return has_failed_; }

 private:
  void take(const std::string& line, const ChatCommand& command) {
    if (command.name.empty()) {
      if (line.find_first_not_of(kSpaces) != std::string::npos) {
        answer(line);
      }
    } else if (command.name == "/help") {
      tell(kHelp);
    } else if (command.name == "/reset") {
      session_.reset();
      tell("forgotten\n");
    } else if (command.name == "/save") {
      save(command.file);
    } else if (command.name == "/load") {
      load(command.file);
    } else {
      throw Error(ErrorCode::kInvalidArgument, command.name, "is not a command",
                  "/help lists them; a message may begin with a space");
    }
  }

  void answer(const std::string& message) {
    AnswerView view(arguments_, model_);
    const ChatSession::Answer answer = session_.answer(
        message, [&](const GenerationState& state, const std::string& text) { view.take(state, text); },
        [] { return InterruptGuard::signal() == 0; });
    view.finish(answer);
    const GenerationResult& result = answer.result;
    const std::string cached = result.cached_tokens == 0 ? std::string()
                                                         : fmt::format("; {} of {} prompt tokens from the cache",
                                                                       result.cached_tokens, result.prompt_tokens);
    tell(fmt::format("({} tokens in {} passes, {:.1f} tokens per second{})\n", result.tokens.size(),
                     result.forward_passes, result.tokens_per_second(), cached));
  }

  // Only files of this conversation are written over.
  void save(const std::string& file) {
    check_file("/save", file);
    std::error_code ignored;
    if (!own_.contains(file) && std::filesystem::exists(std::filesystem::symlink_status(file, ignored))) {
      throw Error(ErrorCode::kIo, file, "is there already", "choose another name");
    }
    write_file(file, session_.to_json());
    own_.insert(file);
    tell(fmt::format("{} messages in {}\n", session_.messages().size(), printable(file)));
  }

  void load(const std::string& file) {
    check_file("/load", file);
    session_.load(file);
    tell(fmt::format("{} messages from {}\n", session_.messages().size(), printable(file)));
  }

  static void check_file(std::string_view command, const std::string& file) {
    if (file.empty()) {
      throw Error(ErrorCode::kInvalidArgument, std::string(command), "has no file",
                  fmt::format("{} conversation.json", command));
    }
  }

  void tell(std::string_view text) const {
    if (!arguments_.output_options.quiet) {
      print_message(text);
    }
  }

  const ChatArguments& arguments_;
  const TextModel& model_;
  ChatSession& session_;
  LineReader reader_;
  std::set<std::string> own_;  // files that /save wrote
  bool has_failed_ = false;
};

void run(const ChatArguments& arguments, std::stop_token stop) {
  static_cast<void>(required_chat_template(find_model_folder(arguments.model.model.path)));  // before long work
  const TextModel model = arguments.model.open(arguments.output_options, std::move(stop));
  ChatSession::Options options{.system = arguments.system,
                               .template_variables = arguments.template_variables,
                               .stops = arguments.stops,
                               .config = arguments.generation.parsed(model.eos_ids(), model.expand_id()),
                               .capacity = cache_capacity(arguments.capacity, model.engine())};
  options.config.block_length = arguments.model.block_length;
  static_cast<void>(AnswerView(arguments, model));  // says what is wrong before the first turn
  // Without the token: Ctrl-C ends an answer, not the conversation.
  ChatSession session(model, options, {.threads = arguments.output_options.threads});
  if (!arguments.output_options.quiet) {
    print_message(fmt::format("weights {}, cache {} for {} tokens; /help lists the commands, Ctrl-D ends\n",
                              format_bytes(model.engine().weight_bytes()), format_bytes(session.cache_bytes()),
                              options.capacity));
  }
  Conversation conversation(arguments, model, session);
  conversation.run();
  if (InterruptGuard::signal() != 0) {
    throw Error(ErrorCode::kCancelled, {}, "stopped", "stopped");
  }
  if (conversation.has_failed() && !LineReader::is_terminal()) {
    throw Error(ErrorCode::kInvalidArgument, "stdin", "had a line that could not be answered", "see above");
  }
}

}  // namespace

Command add_chat(CLI::App& app) {
  CLI::App* command = app.add_subcommand("chat", "Talk with a model in the terminal");
  const auto arguments = std::make_shared<ChatArguments>();
  arguments->model.add_to(*command);
  command->add_option("--system", arguments->system, "The system's message, before all others (default: none)");
  command->add_option("--template-variables", arguments->template_variables,
                      "A JSON object of what the chat template may ask for, such as {\"enable_thinking\": false}");
  command->add_option("--stop", arguments->stops, "Ends an answer where it appears (repeatable)")
      ->allow_extra_args(false);
  command->add_option("--capacity", arguments->capacity,
                      "Tokens of the conversation and an answer together (default: the model's, at most 2048)");
  arguments->model.add_block_length_to(*command);
  arguments->generation.add_to(*command);
  command->add_flag("--visual", arguments->visual, "Show the canvas while it is filled in, in a terminal");
  arguments->output_options.add_without_json_to(*command);
  return make_command(command, arguments, run);
}

}  // namespace diffulex_edge::cli
