#include "cli/options.h"

#include <CLI/CLI.hpp>
#include <utility>

#include "cli/size_text.h"
#include "diffulex_edge/error.h"
#include "diffulex_edge/mixed_precision.h"

namespace diffulex_edge::cli {

void OutputOptions::add_to(CLI::App& command) {
  command.add_flag("--json", json, "Print one JSON object on stdout and nothing else there");
  command.add_flag("--quiet", quiet, "No progress on stderr");
  command.add_option("--threads", threads, "Worker threads; 0: one for each processor")->check(CLI::Range(0, 1024));
}

RunControl OutputOptions::control(ProgressBar& bar, std::stop_token stop) const {
  return {.threads = threads, .stop = std::move(stop), .on_progress = [&bar](const Progress& progress) {
            bar.show(progress);
          }};
}

void ModelArguments::add_to(CLI::App& command) {
  command.add_option("MODEL", path, "Model folder with config.json and safetensors files")->required();
  command.add_option("--block-length", block_length,
                     "Block of a block-causal model, in tokens; 0: fully bidirectional (default: the model's)");
  command.add_option("--mask-token-id", mask_token_id,
                     "The token that masks others, for calibration and evaluation with text (default: the model's)");
  command
      .add_option("--ignore-config-key", ignored_config_keys,
                  "A config.json key that you know to be harmless (repeatable)")
      ->allow_extra_args(false);
}

ModelOptions ModelArguments::options() const {
  return {.seq_len = {},
          .block_length = block_length,
          .mask_token_id = mask_token_id,
          .ignored_config_keys = ignored_config_keys};
}

void QuantizationArguments::add_to(CLI::App& command) {
  command.add_option("--dtype", dtype, "fp32, fp16, int8 or int4 (default: fp32, or what a quantized MODEL has)");
  command.add_option("--mode", mode, "weight_only (default), dynamic or static");
  command.add_option("--group-size", group_size,
                     "INT4: inputs that share a scale, 32 (default), 64, 128 or 256; 0: one scale per output channel");
  command
      .add_option("--exclude", exclude,
                  "Keep layers whose name contains this in FP32 (repeatable; beside lm_head, norm, embedding)")
      ->allow_extra_args(false);
  command.add_option("--embedding-dtype", embedding_dtype, "Format of the embedding: fp32 (default), fp16, int8, int4");
  command.add_option("--head-dtype", head_dtype, "Format of the head: fp32 (default), fp16, int8, int4");
  command.add_option(
      "--method", method,
      "Rounding: rtn (to nearest, default), mse, hqq; with --calibration gptq, awq, or auto (the best for "
      "each layer)");
  command.add_option("--plan", plan, "Formats of all layers, as `diffulex-edge plan` wrote them");
  command.add_flag("--saturate-fp16", saturate_fp16, "Write +-65504 for weights beyond FP16 instead of failing");
  command.add_flag("--strict-group-size", strict_group_size,
                   "Fail where the group size does not divide a row instead of taking a smaller one");
}

void CoreMLArguments::add_to(CLI::App& command) {
  const std::string group = "Core ML";
  command
      .add_option("--minimum-deployment-target", minimum_deployment_target,
                  "iOS16, iOS17, iOS18 (default), macOS13, macOS14 or macOS15")
      ->group(group);
  command
      .add_option("--compute-unit", compute_unit, "all (default), cpu_only, cpu_and_gpu or cpu_and_ne: noted inside")
      ->group(group);
  command.add_flag("--palette", palette, "INT4 as a table of 16 values for each weight; runs on every target")
      ->group(group);
  command.add_option("--palette-group", palette_group, "Rows of a weight that share a table; 0 (default): all")
      ->group(group);
  command
      .add_option("--chunk-size", chunk_size, "Cut the model between layers, weight files of at most this size (2GB)")
      ->group(group);
  command
      .add_option("--chunks", chunks,
                  "pipeline (default): the parts in one package; packages: a folder of packages and a manifest")
      ->group(group);
}

std::map<std::string, std::string> CoreMLArguments::options(const std::string& backend) const {
  if (backend != "coreml") {
    refuse_given({{"--minimum-deployment-target", minimum_deployment_target.has_value()},
                  {"--compute-unit", compute_unit.has_value()},
                  {"--palette", palette},
                  {"--palette-group", palette_group.has_value()},
                  {"--chunk-size", chunk_size.has_value()},
                  {"--chunks", chunks.has_value()}},
                 "belongs to the Core ML backend", "add --backend coreml, or leave it out");
    return {};
  }
  std::map<std::string, std::string> options;
  const auto add = [&](const char* name, const std::optional<std::string>& value) {
    if (value) {
      options[name] = *value;
    }
  };
  add("minimum_deployment_target", minimum_deployment_target);
  add("compute_unit", compute_unit);
  add("chunks", chunks);
  if (palette) {
    options["palette"] = "true";
  }
  if (palette_group) {
    options["palette_group"] = std::to_string(*palette_group);
  }
  if (chunk_size) {
    options["chunk_size"] = std::to_string(parse_size("--chunk-size", *chunk_size));
  }
  return options;
}

void QNNArguments::add_to(CLI::App& command) {
  const std::string group = "QNN";
  command
      .add_option("--soc", socs,
                  "Compile a context binary for this SoC as well, such as SM8650; may be repeated. Needs the Python "
                  "package onnxruntime-qnn")
      ->group(group);
  command
      .add_option("--qnn-python", python,
                  "The Python interpreter that has onnxruntime-qnn (default: $VIRTUAL_ENV's, then python3)")
      ->group(group);
  command
      .add_option("--embedding-on", embedding_on,
                  "npu (default), or host: the embedding in a model of its own, for large vocabularies")
      ->group(group);
  command
      .add_option("--shards", shards, "Cut the model between layers into so many, for NPUs with little address space")
      ->group(group);
}

std::map<std::string, std::string> QNNArguments::options(const std::string& backend) const {
  if (backend != "qnn") {
    refuse_given({{"--soc", !socs.empty()},
                  {"--qnn-python", python.has_value()},
                  {"--embedding-on", embedding_on.has_value()},
                  {"--shards", shards.has_value()}},
                 "belongs to the QNN backend", "add --backend qnn, or leave it out");
    return {};
  }
  std::map<std::string, std::string> options;
  for (const std::string& soc : socs) {
    std::string& all = options["soc"];
    all += (all.empty() ? "" : ",") + soc;
  }
  if (python) {
    options["qnn_python"] = *python;
  }
  if (embedding_on) {
    options["embedding_on"] = *embedding_on;
  }
  if (shards) {
    options["shards"] = std::to_string(*shards);
  }
  return options;
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
