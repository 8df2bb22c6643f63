#include "cli/options.h"

#include <CLI/CLI.hpp>
#include <utility>

#include "backends/command_options.h"
#include "core/join.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/mixed_precision.h"

namespace diffulex_edge::cli {
namespace {

// "fp32, fp16, int8, int4 or palette4"
std::string format_names() { return join(all_formats(), ", ", " or ", &FormatRow::name); }

}  // namespace

void OutputOptions::add_to(CLI::App& command) {
  command.add_flag("--json", json, "Print one JSON object on stdout and nothing else there");
  add_without_json_to(command);
}

void OutputOptions::add_without_json_to(CLI::App& command) {
  command.add_flag("--quiet", quiet, "No progress on stderr");
  command.add_option("--threads", threads, "Worker threads; 0: one for each processor")->check(CLI::Range(0, 1024));
}

RunControl OutputOptions::control(ProgressBar& bar, std::stop_token stop) const {
  return {.threads = threads, .stop = std::move(stop), .on_progress = [&bar](const Progress& progress) {
            bar.show(progress);
          }};
}

void add_ignored_config_keys(CLI::App& command, std::vector<std::string>& keys) {
  command.add_option("--ignore-config-key", keys, "A config.json key that you know to be harmless (repeatable)")
      ->allow_extra_args(false);
}

void ModelArguments::add_to(CLI::App& command) {
  add_without_blocks_to(command);
  command.add_option("--block-length", block_length,
                     "Block of a block-causal model, in tokens; 0: fully bidirectional (default: the model's)");
}

void ModelArguments::add_without_blocks_to(CLI::App& command) {
  command
      .add_option(
          "MODEL", path,
          "Model folder with config.json and safetensors files, or ORG/NAME in the Hugging Face cache; also a GGUF "
          "file, or the folder of a LoRA adapter")
      ->required();
  command.add_option("--mask-token-id", mask_token_id, "The token that masks others (default: the model's)");
  command.add_option("--adapter", adapter,
                     "Folder of a LoRA adapter to merge while the model is read, or its ORG/NAME");
  add_ignored_config_keys(command, ignored_config_keys);
}

ModelOptions ModelArguments::options() const {
  return {.seq_len = {},
          .block_length = block_length,
          .mask_token_id = mask_token_id,
          .ignored_config_keys = ignored_config_keys,
          .adapter = adapter};
}

void QuantizationArguments::add_to(CLI::App& command) {
  command.add_option("--dtype", dtype, format_names() + " (default: fp32, or what a quantized MODEL has)");
  command.add_option("--mode", mode, "weight_only (default), dynamic or static");
  command.add_option("--group-size", group_size,
                     "INT4: inputs that share a scale, 32 (default), 64, 128 or 256; 0: one scale per output channel");
  command
      .add_option("--exclude", exclude,
                  "Keep layers whose name contains this in FP32 (repeatable; beside lm_head, norm, embedding, router)")
      ->allow_extra_args(false);
  command.add_option("--embedding-dtype", embedding_dtype, "Format of the embedding, likewise (default: fp32)");
  command.add_option("--head-dtype", head_dtype, "Format of the head, likewise (default: fp32)");
  command.add_option(
      "--method", method,
      "Rounding: rtn (to nearest, default), mse, hqq; with --calibration gptq, awq, or auto (the best for "
      "each layer)");
  command.add_option("--plan", plan, "Formats of all layers, as `diffulex-edge plan` wrote them");
  command.add_flag("--saturate-fp16", saturate_fp16, "Write +-65504 for weights beyond FP16 instead of failing");
  command.add_flag("--strict-group-size", strict_group_size,
                   "Fail where the group size does not divide a row instead of taking a smaller one");
}

namespace {

std::vector<BackendDescription> all_backends() { return BackendRegistry::instance().descriptions(); }

}  // namespace

BackendArguments::BackendArguments() : name_(all_backends().front().name) {}

void BackendArguments::add_name_to(CLI::App& command, const std::string& help) {
  command.add_option("--backend", name_, help + backend_choices(all_backends()));
}

void BackendArguments::add_options_to(CLI::App& command) {
  for (const CommandOption& option : command_options(all_backends())) {
    Given& given = given_.emplace_back();
    given.name = option.name;
    CLI::Option* added = nullptr;
    if (option.is_flag) {
      added = command.add_flag(option.flag, given.is_on, option.help);
    } else if (option.is_list) {
      added = command.add_option(option.flag, given.values, option.help)->allow_extra_args(false);
    } else {
      added = command.add_option(option.flag, given.value, option.help);
    }
    added->group(option.group);
  }
}

BackendDescription BackendArguments::description() const { return BackendRegistry::instance().describe(name_); }

std::map<std::string, std::string> BackendArguments::options() const {
  std::map<std::string, std::string> options;
  for (const Given& given : given_) {
    if (given.is_on) {
      options[given.name] = "true";
    } else if (given.value) {
      options[given.name] = *given.value;
    }
    for (const std::string& value : given.values) {
      std::string& all = options[given.name];
      all += (all.empty() ? "" : ",") + value;
    }
  }
  return options_of(description(), all_backends(), std::move(options));
}

void refuse_given(std::initializer_list<GivenOption> options, const std::string& reason, const std::string& advice) {
  for (const GivenOption& option : options) {
    if (option.is_given) {
      throw Error(ErrorCode::kInvalidArgument, option.name, reason, advice);
    }
  }
}

void QuantizationArguments::refuse_beside_plan(const std::string& decider) const {
  refuse_given({{"--dtype", dtype.has_value()},
                {"--mode", mode.has_value()},
                {"--group-size", group_size.has_value()},
                {"--exclude", !exclude.empty()},
                {"--embedding-dtype", embedding_dtype.has_value()},
                {"--head-dtype", head_dtype.has_value()}},
               decider + " decides that", "leave it out, or edit the plan");
}

QuantizationConfig QuantizationArguments::config(const Model& model) const {
  QuantizationConfig config = default_quantization_config(model);
  if (plan) {
    refuse_beside_plan(*plan);
    config = read_plan(*plan, model);
  } else if (dtype) {
    config.layer_formats.clear();
    config.dtype = parse_quantization_dtype(*dtype);
  } else if (!config.layer_formats.empty()) {
    refuse_beside_plan("the checkpoint's own plan");
  }
  if (method) {
    config.method = parse_rounding_method(*method);
  }
  if (mode) {
    config.mode = parse_quantization_mode(*mode);
  }
  if (group_size) {
    config.group_size = *group_size;
  }
  config.exclude_layers.insert(config.exclude_layers.end(), exclude.begin(), exclude.end());
  if (embedding_dtype) {
    config.embedding_dtype = parse_quantization_dtype(*embedding_dtype);
  }
  if (head_dtype) {
    config.head_dtype = parse_quantization_dtype(*head_dtype);
  }
  config.saturate_fp16 = saturate_fp16;
  config.strict_group_size = strict_group_size;
  return config;
}

}  // namespace diffulex_edge::cli
