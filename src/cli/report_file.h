// What --report FILE.html does, for the subcommands that take it.
#pragma once

#include <CLI/App.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/report.h"

namespace diffulex_edge::cli {

class ReportFile {
 public:
  void add_to(CLI::App& command);
  bool is_wanted() const { return !path_.empty(); }
  const std::string& path() const { return path_; }  // empty where none is wanted

  // Before long work: throws Error{kInvalidArgument} where the report would replace a file of the model or one of
  // `others` (outputs and data), and Error{kIo} where it can't be written.
  void check(const Model& model, const std::vector<std::string>& others) const;
  // Of a report on `model`; empty where none is wanted. The hash reads every byte: `hashes` false leaves it out.
  Provenance provenance(const Model& model, const std::string& command_line, bool hashes,
                        const RunControl& control) const;
  // Throws Error{kIo}.
  void write(const std::string& html) const;

 private:
  std::string path_;
};

// The words of a command line, quoted for a shell where they need it.
std::string quote_command(int argc, const char* const* argv);

}  // namespace diffulex_edge::cli
