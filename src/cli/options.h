// Options that several subcommands share, and how they become library configurations.
#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <deque>
#include <initializer_list>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "cli/progress_bar.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge::cli {

// How a subcommand talks to the terminal.
struct OutputOptions {
  bool json = false;
  bool quiet = false;
  int threads = 0;

  void add_to(CLI::App& command);
  void add_without_json_to(CLI::App& command);
  // Work that `stop` ends and `bar` shows; `bar` must outlive it.
  RunControl control(ProgressBar& bar, std::stop_token stop) const;
};

// --ignore-config-key, of every command that takes a model folder.
void add_ignored_config_keys(CLI::App& command, std::vector<std::string>& keys);

struct ModelArguments {
  std::string path;
  std::optional<std::int64_t> block_length;
  std::optional<std::int64_t> mask_token_id;
  std::vector<std::string> ignored_config_keys;
  std::optional<std::string> adapter;

  void add_to(CLI::App& command);
  // All but --block-length, for commands that decode by blocks.
  void add_without_blocks_to(CLI::App& command);
  ModelOptions options() const;
};

struct QuantizationArguments {
  std::optional<std::string> dtype;
  std::optional<std::string> mode;
  std::optional<std::int64_t> group_size;
  std::vector<std::string> exclude;
  std::optional<std::string> embedding_dtype;
  std::optional<std::string> head_dtype;
  std::optional<std::string> method;
  std::optional<std::string> plan;
  bool saturate_fp16 = false;
  bool strict_group_size = false;

  void add_to(CLI::App& command);
  // What the command line says over what the plan or the model's own config.json says over the defaults.
  QuantizationConfig config(const Model& model) const;

 private:
  // Throws Error{kInvalidArgument} for an option that a mixed-precision plan decides.
  void refuse_beside_plan(const std::string& decider) const;
};

// A backend and its own options, which come from the descriptions of all backends.
class BackendArguments {
 public:
  // Without a choice: the first backend.
  BackendArguments();

  // --backend, whose help begins with `help`.
  void add_name_to(CLI::App& command, const std::string& help = "");
  // A flag for each option of a backend, in a group of the help of its own.
  void add_options_to(CLI::App& command);

  const std::string& name() const { return name_; }
  // Throws Error{kUnsupported} for an unknown name.
  BackendDescription description() const;
  // As BackendConfig::backend_options. Throws Error{kInvalidArgument} if one was given that only other backends have.
  std::map<std::string, std::string> options() const;

 private:
  struct Given {
    std::string name;
    bool is_on = false;                // of a flag
    std::optional<std::string> value;  // of an option with one value
    std::vector<std::string> values;   // of one that may be repeated
  };

  std::string name_;
  std::deque<Given> given_;  // the command writes into its elements
};

// An option, and whether it was given.
struct GivenOption {
  const char* name = nullptr;
  bool is_given = false;
};
// Throws Error{kInvalidArgument} naming the first one that was given.
void refuse_given(std::initializer_list<GivenOption> options, const std::string& reason, const std::string& advice);

}  // namespace diffulex_edge::cli
