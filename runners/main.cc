// diffulex-edge-run BUNDLE --prompt TEXT: streams text to stdout, written by a bundle's .pte in ExecuTorch.
#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/exit_code.h"
#include "core/printable.h"
#include "diffulex_edge/error.h"
#include "executorch/executorch_model.h"
#include "executorch/runtime_log.h"
#include "run_arguments.h"
#include "text_writer.h"

namespace {

using namespace diffulex_edge;  // NOLINT: a program's one file

std::unique_ptr<runner::StepModel> open_program(const Bundle& bundle) {
  if (bundle.artefact.backend != "xnnpack") {
    throw Error(ErrorCode::kUnsupported, bundle.folder.string(),
                "is for " + printable(bundle.artefact.backend) + ", this runner executes XNNPACK's programs",
                "make a bundle with --backend xnnpack");
  }
  return std::make_unique<runner::ExecutorchModel>(bundle.artefact_path());
}

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    throw Error(ErrorCode::kIo, "stdout", "could not be written");
  }
}

std::string json_of(const runner::WrittenText& written) {
  const GenerationResult& result = written.result;
  const nlohmann::ordered_json document{{"success", true},
                                        {"text", written.text},
                                        {"tokens", result.tokens},
                                        {"prompt_tokens", result.prompt_tokens},
                                        {"forward_passes", result.forward_passes},
                                        {"tokens_per_second", result.tokens_per_second()},
                                        {"seconds", result.seconds},
                                        {"stopped", to_string(result.stopped)}};
  return document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

void print_stats(const GenerationResult& result, double opening) {
  std::fprintf(stderr, "%zu tokens in %lld passes, %.1f tokens per second (%s); opened in %.2f s\n",
               result.tokens.size(), static_cast<long long>(result.forward_passes), result.tokens_per_second(),
               std::string(to_string(result.stopped)).c_str(), opening);
}

void run(const runner::RunArguments& arguments) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  runner::start_runtime();
  runner::TextWriter writer(arguments.bundle, arguments.trusts_files, open_program);
  const double opening = std::chrono::duration<double>(Clock::now() - start).count();
  const runner::TextRequest request{
      .prompt = arguments.prompt, .is_chat = arguments.is_chat, .config = arguments.over(writer.config())};
  const runner::WrittenText written = writer.write(request, [&](std::string_view piece) {
    if (!arguments.wants_json) {
      print(piece);
    }
    return true;
  });
  print(arguments.wants_json ? json_of(written) : "\n");
  if (arguments.wants_stats) {
    print_stats(written.result, opening);
  }
}

int fail(const Error& error) {
  std::cerr << "diffulex-edge-run: error: " << error.what() << '\n';
  return exit_code(error.code());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const runner::RunArguments arguments = runner::read_arguments({argv + 1, argv + argc});
    if (arguments.wants_help) {
      print(runner::help_text());
      return 0;
    }
    run(arguments);
    return 0;
  } catch (const Error& error) {
    return fail(error);
  } catch (const std::bad_alloc&) {
    return fail(Error(ErrorCode::kOutOfMemory, {}, "out of memory"));
  } catch (const std::exception& exception) {
    return fail(Error(ErrorCode::kInternal, "internal error", exception.what()));
  }
}
