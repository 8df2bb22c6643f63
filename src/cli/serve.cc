// diffulex-edge serve MODEL [--port 8080]

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>

#include "checkpoint/hub_cache.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/generation_arguments.h"
#include "cli/options.h"
#include "cli/runtime_arguments.h"
#include "core/printable.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/error.h"
#include "diffusion/decoding_settings.h"
#include "diffusion/text_model.h"
#include "report/text_table.h"
#include "server/http_server.h"
#include "server/metrics.h"
#include "server/scheduler.h"
#include "server/served_model.h"
#include "server/text_service.h"

namespace diffulex_edge::cli {
namespace {

struct ServeArguments {
  TextModelArguments model;
  GenerationArguments generation;
  OutputOptions output_options;
  HttpServerOptions http;
  std::string api_key;
  std::string model_name;
  std::size_t sequences = 4;
  std::optional<std::int64_t> capacity;
  std::size_t queue = 64;
};

std::string model_name(const ServeArguments& arguments) {
  if (!arguments.model_name.empty()) {
    return arguments.model_name;
  }
  const std::filesystem::path folder = find_model_folder(arguments.model.model.path);
  if (const auto repository = cached_repository(folder)) {
    return printable(*repository);
  }
  std::error_code ignored;
  const std::filesystem::path path = std::filesystem::canonical(folder, ignored);
  return printable(path.filename().string());
}

ServedModel make_served_model(const ServeArguments& arguments, const TextModel& model) {
  static_cast<void>(model.tokenizer());  // says that there is none
  ServedModel served{.name = model_name(arguments),
                     .text = model,
                     .chat_template = ChatTemplate::find(find_model_folder(arguments.model.model.path)),
                     .defaults = arguments.generation.parsed(model.eos_ids(), model.expand_id()),
                     .capacity = cache_capacity(arguments.capacity, model.engine()),
                     .sequences = arguments.sequences};
  served.defaults.block_length = arguments.model.block_length;
  if (served.defaults.max_new_tokens < 1) {
    throw Error(ErrorCode::kInvalidArgument, "--max-new-tokens",
                fmt::format("{} is not 1 or more", served.defaults.max_new_tokens));
  }
  return served;
}

void run(const ServeArguments& arguments, std::stop_token stop) {
  HttpServer server(arguments.http);
  const TextModel model = arguments.model.open(arguments.output_options, stop);
  const ServedModel served = make_served_model(arguments, model);
  ServerMetrics metrics;
  Scheduler scheduler(model.engine(),
                      {.loop = {.capacity = served.capacity,
                                .sequences = arguments.sequences,
                                .cache_dtype = served.defaults.cache_dtype},
                       .queue = arguments.queue,
                       .threads = arguments.output_options.threads},
                      metrics);
  // What the command line says is wrong before the first request comes.
  scheduler.check(shortest_request(served.text.engine().config(), served.defaults, served.capacity));
  TextService service(served, scheduler, metrics, server,
                      {.api_key = arguments.api_key, .is_loopback = server.is_loopback()});
  if (!arguments.output_options.quiet) {
    ServerGauges gauges;
    scheduler.add_to(gauges);
    print_message(fmt::format("{}: weights {}, caches {} for {} requests of {} tokens\n", served.name,
                              format_bytes(model.engine().weight_bytes()), format_bytes(gauges.cache_bytes),
                              arguments.sequences, served.capacity));
  }
  const std::stop_callback stop_server(std::move(stop), [&server] { server.stop(); });
  print_message(fmt::format("listening on {}\n", server.url()));
  server.run(service);
  throw Error(ErrorCode::kCancelled, {}, "stopped", "stopped serving");
}

}  // namespace

Command add_serve(CLI::App& app) {
  CLI::App* command = app.add_subcommand("serve", "Write text for programs and browsers, as OpenAI's servers do");
  const auto arguments = std::make_shared<ServeArguments>();
  arguments->model.add_to(*command);
  command->add_option("--host", arguments->http.host,
                      "The address to listen on (default 127.0.0.1: this machine only; 0.0.0.0: all)");
  command->add_option("--port", arguments->http.port, "The port to listen on (default 8080; 0: any free one)");
  command->add_option("--api-key", arguments->api_key, "What clients have to send as their key (default: none)")
      ->envname("DIFFULEX_EDGE_API_KEY");
  command->add_option("--model-name", arguments->model_name, "What the model is called (default: its folder's name)");
  command->add_option("--sequences", arguments->sequences, "Requests that are written at once (default 4)")
      ->check(CLI::Range(1, 256));
  command->add_option("--capacity", arguments->capacity,
                      "Tokens of a prompt and its answer together (default: the model's, at most 2048)");
  command->add_option("--queue", arguments->queue, "Requests that wait, before more are refused (default 64)")
      ->check(CLI::Range(0, 100000));
  command->add_option("--max-body", arguments->http.max_body, "Bytes of a request, at most (default 1 MiB)")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 30U));
  arguments->model.add_block_length_to(*command);
  arguments->generation.add_to(*command);
  arguments->output_options.add_to(*command);
  return make_command(command, arguments, run);
}

}  // namespace diffulex_edge::cli
