#include "cli/report_file.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <span>
#include <string_view>

#include "cli/extra_output.h"
#include "core/output_file.h"

namespace diffulex_edge::cli {
namespace {

// A page of some hundred layers: what must be free for it. A full disk then shows before the work.
constexpr std::int64_t kExpectedBytes = 256 << 10U;

bool is_plain(char c) {
  constexpr std::string_view kPlain = "-_./=:,+@%^";
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         kPlain.find(c) != std::string_view::npos;
}

std::string quote(std::string_view word) {
  if (!word.empty() && std::ranges::all_of(word, is_plain)) {
    return std::string(word);
  }
  std::string quoted = "'";
  for (const char c : word) {
    quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return quoted + "'";
}

}  // namespace

void ReportFile::add_to(CLI::App& command) {
  command.add_option("--report", path_, "Also write a report as one HTML page to this file");
}

void ReportFile::check(const Model& model, const std::vector<std::string>& others) const {
  if (is_wanted()) {
    check_extra_output(path_, "the report", kExpectedBytes, model, others);
  }
}

Provenance ReportFile::provenance(const Model& model, const std::string& command_line, bool hashes,
                                  const RunControl& control) const {
  Provenance provenance;
  if (is_wanted()) {
    provenance.command = command_line;
    if (hashes) {
      provenance.model_hash = hash_model(model, control);
    }
  }
  return provenance;
}

void ReportFile::write(const std::string& html) const { write_file(path_, html); }

std::string quote_command(int argc, const char* const* argv) {
  std::string line;
  for (const char* word : std::span(argv, static_cast<std::size_t>(argc))) {
    line += (line.empty() ? "" : " ") + quote(word);
  }
  return line;
}

}  // namespace diffulex_edge::cli
