#include "backends/qnn/compiler.h"

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

#include "compile_context_script.h"
#include "core/child_process.h"
#include "core/printable.h"

namespace diffulex_edge::qnn {
namespace {

constexpr std::string_view kAdvice = "pip install onnxruntime-qnn, with a Python of at least 3.11 on x86-64 Linux";
constexpr std::chrono::seconds kProbeLimit{60};

// A compiler's message has several lines, an error one.
std::string one_line(std::string_view text) {
  text = text.substr(0, text.find_last_not_of(" \r\n") + 1);
  std::string result;
  for (const char byte : text) {
    if (byte == '\n') {
      result += "; ";
    } else {
      result += byte == '\t' || byte == '\r' ? ' ' : byte;
    }
  }
  return printable(result);
}

// The last line that says something: of a Python that fails, that is the reason.
std::string last_line(std::string_view text) {
  const std::size_t end = text.find_last_not_of(" \r\n");
  if (end == std::string_view::npos) {
    return {};
  }
  text = text.substr(0, end + 1);
  return std::string(text.substr(text.find_last_of('\n') + 1));
}

std::string signal_text(int signal) {
  const char* name = ::strsignal(signal);
  return "signal " + std::to_string(signal) + (name == nullptr ? "" : std::string(", ") + name);
}

ChildResult run_script(const std::string& python, std::vector<std::string> arguments, const std::stop_token& stop,
                       const ChildLimits& limits = {}) {
  std::vector<std::string> command = {python, "-c", std::string(kCompileContextScript)};
  command.insert(command.end(), std::make_move_iterator(arguments.begin()), std::make_move_iterator(arguments.end()));
  return run_child(command, stop, limits);
}

// The script's answer; where there is none, an object with `error` that says what there was.
nlohmann::json answer_of(const ChildResult& result) {
  nlohmann::json answer = nlohmann::json::parse(result.output, nullptr, false);
  if (answer.is_object()) {
    return answer;
  }
  std::string error =
      result.output.empty() ? "printed no answer" : "printed no answer, but '" + one_line(result.output) + "'";
  const std::string reason = last_line(result.errors);
  if (!reason.empty()) {
    error += ": " + reason;
  }
  return {{"error", error}, {"log", result.errors}};
}

// A value of the answer, or nothing of another type.
template <typename T>
std::optional<T> value_of(const nlohmann::json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (found == object.end()) {
    return std::nullopt;
  }
  if constexpr (std::is_same_v<T, std::string>) {
    return found->is_string() ? std::optional<T>(found->get<T>()) : std::nullopt;
  } else if constexpr (std::is_integral_v<T>) {
    return found->is_number_integer() ? std::optional<T>(found->get<T>()) : std::nullopt;
  } else {
    return found->is_number() ? std::optional<T>(found->get<T>()) : std::nullopt;
  }
}

// The answer's entry for a model beside the first; nothing where there is none.
nlohmann::json graph_of(const nlohmann::json& answer, std::size_t index) {
  const auto others = answer.is_object() ? answer.find("others") : answer.end();
  const bool has_it = answer.is_object() && others != answer.end() && others->is_array() && index < others->size();
  return has_it ? (*others)[index] : nlohmann::json();
}

struct Probe {
  std::string version;  // empty where the compiler can't be used
  std::string problem;
};

Probe probe(const std::string& python) {
  const ChildResult result = run_script(python, {"probe"}, {}, {.time = kProbeLimit});
  if (result.signal != 0) {
    return {.version = {}, .problem = "was ended by " + signal_text(result.signal)};
  }
  const nlohmann::json answer = answer_of(result);
  if (const auto error = value_of<std::string>(answer, "error")) {
    return {.version = {}, .problem = *error};
  }
  const auto runtime = value_of<std::string>(answer, "onnxruntime");
  const auto provider = value_of<std::string>(answer, "onnxruntime_qnn");
  if (!runtime || !provider) {
    return {.version = {}, .problem = "printed no versions, but '" + one_line(result.output) + "'"};
  }
  std::string version = "onnxruntime " + *runtime + ", onnxruntime-qnn " + *provider;
  if (const auto build = value_of<std::string>(answer, "qairt")) {
    version += ", QAIRT " + *build;
  }
  return {.version = std::move(version), .problem = {}};
}

// The two files of a context in the target folder. They are removed unless kept: a compile that failed leaves some.
class ContextFiles {
 public:
  ContextFiles(const std::filesystem::path& folder, const std::string& stem)
      : model(folder / (stem + "_ctx.onnx")), binary(folder / (stem + "_ctx_qnn.bin")) {
    remove();  // the compiler refuses to replace them
  }
  ~ContextFiles() {
    if (!kept_) {
      remove();
    }
  }
  ContextFiles(const ContextFiles&) = delete;
  ContextFiles& operator=(const ContextFiles&) = delete;
  ContextFiles(ContextFiles&&) = delete;
  ContextFiles& operator=(ContextFiles&&) = delete;

  void keep() { kept_ = true; }

  const std::filesystem::path model;   // NOLINT(*-avoid-const-or-ref-data-members): it is never copied
  const std::filesystem::path binary;  // NOLINT(*-avoid-const-or-ref-data-members)

 private:
  void remove() const {
    std::error_code ignored;
    std::filesystem::remove(model, ignored);
    std::filesystem::remove(binary, ignored);
  }

  bool kept_ = false;
};

// Throws what the answer, or the lack of one, means.
void check(const ChildResult& result, const nlohmann::json& answer, const std::string& where) {
  if (result.signal == SIGKILL) {
    throw Error(ErrorCode::kOutOfMemory, where,
                "Qualcomm's compiler was killed, as the system does when memory runs out",
                "compile on a machine with more memory, or a smaller model");
  }
  if (result.signal != 0) {
    throw CompilerError(where, "Qualcomm's compiler crashed (" + signal_text(result.signal) + ")", {}, result.errors);
  }
  const auto error = value_of<std::string>(answer, "error");
  if (!error) {
    if (result.exit_code != 0) {
      throw CompilerError(where, "Qualcomm's compiler ended with exit code " + std::to_string(result.exit_code), {},
                          result.errors);
    }
    return;
  }
  std::vector<std::string> names;
  std::string listed;
  if (const auto nodes = answer.find("nodes"); nodes != answer.end() && nodes->is_array()) {
    for (const nlohmann::json& node : *nodes) {
      names.push_back(value_of<std::string>(node, "name").value_or(""));
      listed +=
          (listed.empty() ? "" : ", ") + names.back() + " (" + value_of<std::string>(node, "type").value_or("?") + ")";
    }
  }
  const std::string of_nodes = names.empty() ? "" : "; it means " + listed;
  throw CompilerError(where, "Qualcomm's compiler failed: " + *error + of_nodes, std::move(names),
                      value_of<std::string>(answer, "log").value_or(""));
}

}  // namespace

CompilerError::CompilerError(const std::string& where, const std::string& message, std::vector<std::string> nodes,
                             std::string log)
    : Error(ErrorCode::kUnsupported, where, message),
      line_(one_line(where + ": " + message)),
      nodes_(std::move(nodes)),
      log_(std::move(log)) {}

ContextCompiler::ContextCompiler(std::string python, std::string version)
    : python_(std::move(python)), version_(std::move(version)) {}

std::optional<ContextCompiler> ContextCompiler::find(const std::filesystem::path& python, std::string& missing) {
  missing.clear();
  if (!python.empty()) {
    Probe found = probe(python.string());
    if (found.version.empty()) {
      throw Error(ErrorCode::kUnsupported, python.string(), "has no Qualcomm compiler: " + one_line(found.problem),
                  std::string(kAdvice));
    }
    return ContextCompiler(python.string(), std::move(found.version));
  }
  std::vector<std::string> candidates;
  if (const char* environment = std::getenv("VIRTUAL_ENV"); environment != nullptr && *environment != '\0') {
    candidates.push_back((std::filesystem::path(environment) / "bin" / "python").string());
  }
  candidates.emplace_back("python3");
  std::string problems;
  for (const std::string& candidate : candidates) {
    std::string problem;
    try {
      Probe found = probe(candidate);
      if (!found.version.empty()) {
        return ContextCompiler(candidate, std::move(found.version));
      }
      problem = one_line(found.problem);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kIo) {
        throw;
      }
      // It is not there, or does not answer.
      problem = error.what();
      const std::string start = candidate + ": ";
      problem.erase(0, problem.starts_with(start) ? start.size() : 0);
    }
    problems.append(problems.empty() ? "" : "; ").append(candidate).append(": ").append(problem);
  }
  missing = "Qualcomm's compiler is missing: " + std::string(kAdvice) + " (" + problems + ")";
  return std::nullopt;
}

CompiledContext ContextCompiler::compile(const std::filesystem::path& onnx, const Soc& soc,
                                         const std::filesystem::path& target, const RunControl& control) const {
  return compile_together({onnx}, soc, target, control).front();
}

std::vector<CompiledContext> ContextCompiler::compile_together(const std::vector<std::filesystem::path>& models,
                                                               const Soc& soc, const std::filesystem::path& target,
                                                               const RunControl& control) const {
  const std::string name(soc.name);
  if (control.on_progress) {
    control.on_progress({.stage = "compile " + name});
  }
  const std::filesystem::path& first = models.front();
  std::deque<ContextFiles> files;
  files.emplace_back(target, first.stem().string());
  std::vector<std::string> words = {"compile", first.string(), files.front().model.string(), std::to_string(soc.model),
                                    std::to_string(soc.htp_architecture)};
  for (const std::filesystem::path& other : std::span(models).subspan(1)) {
    files.emplace_back(target, other.stem().string());
    words.insert(words.end(), {"--with", other.string(), files.back().model.string()});
  }
  const ChildResult result = run_script(python_, std::move(words), control.stop);
  const nlohmann::json answer = result.signal == 0 ? answer_of(result) : nlohmann::json();
  const std::string where = first.filename().string() +
                            (models.size() > 1 ? " and " + std::to_string(models.size() - 1) + " more for " : " for ") +
                            name;
  check(result, answer, where);
  std::vector<CompiledContext> contexts;
  for (std::size_t i = 0; i < models.size(); ++i) {
    const nlohmann::json graph = i == 0 ? answer : graph_of(answer, i - 1);
    const auto graph_name = value_of<std::string>(graph, "graph_name");
    const auto binary = value_of<std::string>(graph, "binary");
    const std::filesystem::path& expected = files.front().binary;
    std::error_code error;
    const auto bytes = std::filesystem::file_size(expected, error);
    if (error || !graph_name || binary != expected.filename().string() ||
        !std::filesystem::is_regular_file(files[i].model, error)) {
      throw CompilerError(where, "Qualcomm's compiler wrote no context, and answered '" + one_line(result.output) + "'",
                          {}, result.errors);
    }
    contexts.push_back({.model = files[i].model,
                        .binary = expected,
                        .bytes = static_cast<std::int64_t>(bytes),
                        .graph_name = *graph_name,
                        .seconds = value_of<double>(answer, "seconds").value_or(0),
                        .peak_rss_bytes = value_of<std::int64_t>(answer, "peak_rss_bytes").value_or(0)});
  }
  for (ContextFiles& kept : files) {
    kept.keep();
  }
  return contexts;
}

}  // namespace diffulex_edge::qnn
