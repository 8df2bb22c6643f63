// diffulex-edge generate MODEL --prompt TEXT

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/canvas_view.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/generation_arguments.h"
#include "cli/options.h"
#include "cli/runtime_arguments.h"
#include "core/mapped_file.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/generation.h"
#include "diffusion/text_model.h"
#include "runtime/npy_file.h"

namespace diffulex_edge::cli {
namespace {

struct GenerateArguments {
  TextModelArguments model;
  GenerationArguments generation;
  OutputOptions output_options;
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_ids;
  std::optional<std::string> canvas;
  std::string suffix;
  std::optional<std::string> suffix_ids;
  bool chat = false;
  std::string system;
  std::string template_variables;
  std::vector<std::string> stops;
  bool stream = false;
  bool visual = false;
  bool cache_effect = false;
};

std::string read_all(std::istream& stream, const std::string& name) {
  std::string text(std::istreambuf_iterator<char>(stream), {});
  if (stream.bad()) {
    throw Error(ErrorCode::kBadFile, name, "could not be read");
  }
  return text;
}

// TEXT, "-" for stdin, or @FILE.
std::string read_text(const std::string& option) {
  if (option == "-") {
    return read_all(std::cin, "stdin");
  }
  if (!option.starts_with('@')) {
    return option;
  }
  const std::string path = option.substr(1);
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw Error(ErrorCode::kBadFile, path, "could not be opened", "--prompt @FILE reads a text file");
  }
  return read_all(file, path);
}

std::vector<std::int64_t> read_ids(const std::string& path) {
  const MappedFile file(path);
  const NpyMatrix matrix(file);
  if (matrix.rows() != 1) {
    throw Error(ErrorCode::kBadFile, path, "has " + std::to_string(matrix.rows()) + " rows, not one prompt",
                "save an integer array of the shape [1, tokens]");
  }
  return matrix.row(0);
}

void check_arguments(const GenerateArguments& arguments) {
  const int prompts = (arguments.prompt ? 1 : 0) + (arguments.prompt_ids ? 1 : 0) + (arguments.canvas ? 1 : 0);
  if (prompts != 1) {
    throw Error(ErrorCode::kInvalidArgument, "prompt", prompts == 0 ? "is missing" : "is given more than once",
                "give one of --prompt, --prompt-ids and --canvas");
  }
  if (arguments.canvas && (arguments.suffix_ids || !arguments.suffix.empty())) {
    throw Error(ErrorCode::kInvalidArgument, "--suffix", "is given beside --canvas", "put it into the canvas");
  }
  if (arguments.suffix_ids && !arguments.suffix.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "--suffix", "is given beside --suffix-ids", "leave one out");
  }
  if (arguments.visual && arguments.output_options.json) {
    throw Error(ErrorCode::kInvalidArgument, "--visual", "is given beside --json", "leave one out");
  }
  if (arguments.chat && !arguments.prompt) {
    throw Error(ErrorCode::kInvalidArgument, "--chat", "needs a text to answer", "give --prompt");
  }
  refuse_given({{"--system", !arguments.chat && !arguments.system.empty()},
                {"--template-variables", !arguments.chat && !arguments.template_variables.empty()}},
               "is a part of a conversation", "add --chat");
  for (const std::string& stop : arguments.stops) {
    if (stop.empty()) {
      throw Error(ErrorCode::kInvalidArgument, "--stop", "is empty");
    }
  }
}

// The prompt as a conversation's only message, by the model's chat template.
std::vector<std::int64_t> chat_prompt(const GenerateArguments& arguments, const TextModel& model,
                                      const std::string& text) {
  std::vector<ChatMessage> messages;
  if (!arguments.system.empty()) {
    messages.push_back({.role = "system", .content = arguments.system});
  }
  messages.push_back({.role = "user", .content = text});
  // The template writes the tokens that begin a sequence itself.
  return model.tokenizer().encode(model.chat_template().render(
      messages, {.add_generation_prompt = true, .variables = arguments.template_variables}));
}

GenerationRequest make_request(const GenerateArguments& arguments, const TextModel& model) {
  GenerationRequest request{
      .prompt = {}, .suffix = {}, .config = arguments.generation.parsed(model.eos_ids(), model.expand_id())};
  request.config.block_length = arguments.model.block_length;
  if (arguments.prompt_ids) {
    request.prompt = read_ids(*arguments.prompt_ids);
  } else if (arguments.canvas) {
    request.prompt = model.encode_prompt(read_text(*arguments.canvas));
    request.config.max_new_tokens = 0;
    request.config.ignore_eos = true;
  } else {
    const std::string text = read_text(arguments.prompt.value_or(""));
    request.prompt = arguments.chat ? chat_prompt(arguments, model, text) : model.encode_prompt(text);
  }
  if (arguments.suffix_ids) {
    request.suffix = read_ids(*arguments.suffix_ids);
  } else if (!arguments.suffix.empty()) {
    request.suffix = model.tokenizer().encode(arguments.suffix);
  }
  if (arguments.prompt && !arguments.chat && !arguments.suffix_ids) {
    model.frame(request);
  }
  return request;
}

// What becomes of the text while it is written.
class Writer {
 public:
  Writer(const GenerateArguments& arguments, const TextModel& model) : json_(arguments.output_options.json) {
    stream_ = arguments.stream;
    if (model.has_tokenizer()) {
      text_.emplace(model.stream(arguments.stops));
    } else if (!json_ || !arguments.stops.empty()) {
      static_cast<void>(model.tokenizer());  // says that there is none
    }
    if (arguments.visual) {
      view_.emplace(model.tokenizer());
    }
  }

  bool take(const GenerationState& state) {
    tokens_.assign(state.tokens.begin() + state.begin, state.tokens.begin() + state.begin + state.written);
    passes_ = state.forward_passes;
    if (view_) {
      view_->show(state);
    }
    give(text_ ? text_->take(tokens_) : std::string());
    return !(text_ && text_->is_stopped());
  }

  void finish(const GenerationResult& result) {
    tokens_ = result.tokens;
    if (view_) {
      view_->clear();
    }
    give(text_ ? text_->finish() : std::string());
    if (!json_) {
      print_line(view_ ? text() : std::string());
    }
    flush_output();
  }

  std::string text() const { return text_ ? text_->text() : std::string(); }
  bool has_text() const { return text_.has_value(); }
  const std::vector<std::int64_t>& tokens() const { return tokens_; }
  std::int64_t passes() const { return passes_; }

 private:
  void give(const std::string& text) {
    if (stream_) {
      give_line(text);
    } else if (!json_ && !view_ && !text.empty()) {
      print_text(text);
      flush_output();
    }
  }

  // The text may come later than its tokens: a character is never cut.
  void give_line(const std::string& text) {
    const std::vector<std::int64_t> tokens(tokens_.begin() + std::min(given_, std::ssize(tokens_)), tokens_.end());
    if (text.empty() && tokens.empty()) {
      return;
    }
    nlohmann::ordered_json line;
    if (text_) {
      line["text"] = text;
    }
    line["tokens"] = tokens;
    print_line(line.dump());
    flush_output();
    given_ += std::ssize(tokens);
  }

  bool json_;
  bool stream_ = false;
  std::optional<TextStream> text_;
  std::optional<CanvasView> view_;
  std::vector<std::int64_t> tokens_;
  std::ptrdiff_t given_ = 0;  // of them, in lines
  std::int64_t passes_ = 0;
};

// The same text written without a cache.
struct CacheEffect {
  double differing = 0.0;  // share of the tokens, place by place
  double tokens_per_second = 0.0;
};

CacheEffect measure_cache_effect(const TextModel& model, GenerationRequest request, const GenerationResult& cached,
                                 const RunControl& control) {
  request.config.cache = CacheKind::NONE;
  request.config.cache_refresh = 0;
  request.config.cache_dtype = CacheDtype::FP32;
  const GenerationResult exact = model.engine().generate(request, {}, control);
  const std::size_t longest = std::max(exact.tokens.size(), cached.tokens.size());
  std::size_t same = 0;
  for (std::size_t i = 0; i < std::min(exact.tokens.size(), cached.tokens.size()); ++i) {
    same += exact.tokens[i] == cached.tokens[i] ? 1 : 0;
  }
  return {.differing = longest == 0 ? 0.0 : 1.0 - static_cast<double>(same) / static_cast<double>(longest),
          .tokens_per_second = exact.tokens_per_second()};
}

double rounded(double value) { return std::stod(fmt::format("{:.4g}", value)); }

std::string to_json(const GenerateArguments& arguments, const TextModel& model, const Writer& writer,
                    const GenerationResult& result, const std::optional<CacheEffect>& effect) {
  nlohmann::ordered_json document{{"success", true}};
  if (writer.has_text()) {
    document["text"] = writer.text();
  }
  document["tokens"] = result.tokens;
  document["prompt_tokens"] = result.prompt_tokens;
  document["forward_passes"] = result.forward_passes;
  document["tokens_per_forward"] = rounded(result.tokens_per_forward());
  document["tokens_per_second"] = rounded(result.tokens_per_second());
  document["seconds"] = rounded(result.seconds);
  document["seconds_to_first_block"] = rounded(result.seconds_to_first_block);
  document["cache_bytes"] = result.cache_bytes;
  document["weight_bytes"] = model.engine().weight_bytes();
  document["seed"] = arguments.generation.config.seed;
  document["stopped"] = to_string(result.stopped);
  if (effect) {
    document["cache_effect"] = {{"differing_tokens", rounded(effect->differing)},
                                {"tokens_per_second_without", rounded(effect->tokens_per_second)}};
  }
  const bool one_line = arguments.stream;
  return document.dump(one_line ? -1 : 2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

void run(const GenerateArguments& arguments, std::stop_token stop) {
  check_arguments(arguments);
  if (arguments.chat) {
    static_cast<void>(required_chat_template(find_model_folder(arguments.model.model.path)));  // before long work
  }
  const TextModel model = arguments.model.open(arguments.output_options, stop);
  const RunControl control{.threads = arguments.output_options.threads, .stop = std::move(stop)};
  const GenerationRequest request = make_request(arguments, model);
  Writer writer(arguments, model);
  GenerationResult result;
  bool is_interrupted = false;
  try {
    result =
        model.engine().generate(request, [&](const GenerationState& state) { return writer.take(state); }, control);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled) {
      throw;
    }
    is_interrupted = true;
    result = {.tokens = writer.tokens(), .forward_passes = writer.passes(), .stopped = Stopped::STOP};
    result.prompt_tokens = static_cast<std::int64_t>(request.prompt.size());
  }
  writer.finish(result);
  std::optional<CacheEffect> effect;
  if (arguments.cache_effect && !is_interrupted) {
    effect = measure_cache_effect(model, request, result, control);
  }
  if (arguments.output_options.json) {
    print_line(to_json(arguments, model, writer, result, effect));
  } else if (!arguments.output_options.quiet && !is_interrupted) {
    print_message(fmt::format("{} tokens in {} passes, {:.1f} tokens per second ({})\n", result.tokens.size(),
                              result.forward_passes, result.tokens_per_second(), to_string(result.stopped)));
  }
  if (effect && !arguments.output_options.json) {
    print_message(fmt::format("without a cache: {:.1f} % of the tokens differ, {:.1f} tokens per second\n",
                              100.0 * effect->differing, effect->tokens_per_second));
  }
  if (is_interrupted) {
    flush_output();
    throw Error(ErrorCode::kCancelled, {}, "stopped", "stopped, the text is as far as it was written");
  }
}

}  // namespace

Command add_generate(CLI::App& app) {
  CLI::App* command = app.add_subcommand("generate", "Write text with a model, quantized or not, on this machine");
  const auto arguments = std::make_shared<GenerateArguments>();
  arguments->model.add_to(*command);
  command->add_option("--prompt", arguments->prompt, "What the text goes on from: TEXT, - for stdin, or @FILE");
  command->add_option("--prompt-ids", arguments->prompt_ids, "Token ids in its place: integers [1, tokens] (.npy)");
  command->add_option("--canvas", arguments->canvas,
                      "A text with mask tokens, all of which are filled in: TEXT, - for stdin, or @FILE");
  command->add_flag("--chat", arguments->chat, "Answer the prompt as a message, by the model's chat template");
  command->add_option("--system", arguments->system, "--chat: the system's message before it");
  command->add_option("--template-variables", arguments->template_variables,
                      "--chat: a JSON object of what the template may ask for, such as {\"enable_thinking\": false}");
  command->add_option("--suffix", arguments->suffix, "What comes behind the new text (bidirectional models)");
  command->add_option("--suffix-ids", arguments->suffix_ids, "Token ids in its place: integers [1, tokens] (.npy)");
  command->add_option("--stop", arguments->stops, "Ends the text where it appears (repeatable)")
      ->allow_extra_args(false);
  arguments->model.add_block_length_to(*command);
  arguments->generation.add_to(*command);
  command->add_flag("--stream", arguments->stream,
                    "With --json: a line for each piece of text and its tokens, then the whole object");
  command->add_flag("--visual", arguments->visual, "Show the canvas while it is filled in, in a terminal");
  command->add_flag("--cache-effect", arguments->cache_effect,
                    "Write the text once more, without a cache, and say how many tokens differ");
  arguments->output_options.add_to(*command);
  return make_command(command, arguments, run);
}

}  // namespace diffulex_edge::cli
