// Rounds one weight with a library function, for comparison with an independent program.
//
//   round_weight IN.safetensors OUT.safetensors [OPTION=VALUE ...]
//
// IN has "weight" F32 [rows, columns], "hessian" F32 [columns, columns] and, for AWQ, "mean_abs" F32 [columns]; the
// calibration's weight is the option tokens. OUT gets "weight" and "weight_scale" as a quantized checkpoint has them,
// or "scales" F32 [columns] for AWQ. Prints one JSON object.

#include <chrono>
#include <cstring>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint/safetensors_writer.h"
#include "core/output_file.h"
#include "diffulex_edge/checkpoint.h"
#include "diffulex_edge/error.h"
#include "quant/rounding.h"

namespace diffulex_edge {
namespace {

struct Arguments {
  std::string input;
  std::string output;
  std::map<std::string, std::string> options;

  std::string text(const std::string& name, const std::string& otherwise) const {
    const auto position = options.find(name);
    return position == options.end() ? otherwise : position->second;
  }
  std::int64_t integer(const std::string& name, std::int64_t otherwise) const {
    return std::stoll(text(name, std::to_string(otherwise)));
  }
  double number(const std::string& name, double otherwise) const {
    return std::stod(text(name, std::to_string(otherwise)));
  }
};

Arguments parse(int count, char** words) {
  if (count < 3) {
    throw Error(ErrorCode::kInvalidArgument, "usage", "round_weight IN OUT [OPTION=VALUE ...]");
  }
  Arguments arguments{.input = words[1], .output = words[2]};
  for (int i = 3; i < count; ++i) {
    const std::string word = words[i];
    const auto equals = word.find('=');
    arguments.options[word.substr(0, equals)] = equals == std::string::npos ? "1" : word.substr(equals + 1);
  }
  return arguments;
}

std::vector<float> floats(const Checkpoint& checkpoint, const std::string& name) {
  const TensorView* view = checkpoint.find(name);
  if (view == nullptr) {
    return {};
  }
  std::vector<float> values(view->bytes.size() / sizeof(float));
  std::memcpy(values.data(), view->bytes.data(), view->bytes.size());
  return values;
}

WeightFormat format_of(const Arguments& arguments) {
  const bool is_int8 = arguments.text("dtype", "int4") == "int8";
  return format_row(is_int8 ? QuantizationDtype::INT8 : QuantizationDtype::INT4)
      .format(arguments.integer("group_size", 32));
}

void write(const std::string& path, std::vector<TensorToWrite> tensors,
           const std::map<std::string, std::span<const std::byte>>& contents) {
  std::int64_t bytes = 0;
  const std::string head = lay_out_safetensors(tensors, bytes);
  OutputFile file(path, bytes);
  file.write(0, std::as_bytes(std::span(head)));
  for (const TensorToWrite& tensor : tensors) {
    file.write(tensor.offset, contents.at(tensor.name));
  }
  file.commit();
}

struct Layer {
  std::vector<float> weight;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  WeightFormat format;
  InputStatistics statistics;
};

Layer read_layer(const Arguments& arguments) {
  const Checkpoint checkpoint(arguments.input);
  Layer layer{.weight = floats(checkpoint, "weight"), .format = format_of(arguments)};
  layer.rows = checkpoint.at("weight").shape.at(0);
  layer.columns = checkpoint.at("weight").shape.at(1);
  layer.statistics = {.columns = layer.columns,
                      .weight = arguments.number("tokens", 1.0),
                      .hessian = floats(checkpoint, "hessian"),
                      .mean_abs = floats(checkpoint, "mean_abs")};
  return layer;
}

RoundedWeight round_layer(const Layer& layer, const Arguments& arguments, const RunControl& control) {
  const RoundingMethod method = parse_rounding_method(arguments.text("method", "rtn"));
  const auto passes = static_cast<int>(arguments.integer("refine_passes", 0));
  if (method == RoundingMethod::AUTO) {
    return auto_round(layer.weight, layer.rows, layer.columns, layer.format, layer.statistics, {}, control).rounded;
  }
  if (method == RoundingMethod::GPTQ) {
    const GptqOptions options{.damping = arguments.number("damping", 0.01),
                              .act_order = arguments.integer("act_order", 0) != 0,
                              .static_groups = arguments.integer("static_groups", 0) != 0,
                              .scale_method = parse_rounding_method(arguments.text("scale_method", "mse")),
                              .weigh_scales = arguments.integer("weigh_scales", 1) != 0,
                              .refine_passes = passes};
    return round_gptq(layer.weight, layer.rows, layer.columns, layer.format, layer.statistics, options, control);
  }
  std::vector<float> importance;
  if (arguments.integer("weigh_scales", 0) != 0) {
    importance = input_importance(layer.statistics);
  }
  RoundedWeight rounded =
      round_weight(layer.weight, layer.rows, layer.columns, layer.format, method, importance, control);
  if (passes > 0) {
    refine_rounding(layer.weight, layer.rows, layer.columns, layer.format, layer.statistics, passes, rounded, control);
  }
  return rounded;
}

void write_rounded(const Layer& layer, const RoundedWeight& rounded, const std::string& path) {
  const bool packed = layer.format.element == ElementType::kI4;
  TensorToWrite values{.name = "weight",
                       .dtype = packed ? DType::kU8 : DType::kI8,
                       .shape = {layer.rows, layer.format.row_bytes(layer.columns)}};
  TensorToWrite scales{.name = "weight_scale", .shape = {layer.rows}};
  if (layer.format.granularity == Granularity::kGroup) {
    scales.dtype = DType::kBF16;
    scales.shape.push_back(layer.format.scales_per_row(layer.columns));
  }
  write(path, {values, scales}, {{"weight", rounded.values}, {"weight_scale", rounded.scales}});
}

void run(const Arguments& arguments) {
  const RunControl control{.threads = static_cast<int>(arguments.integer("threads", 0))};
  const Layer layer = read_layer(arguments);
  const auto start = std::chrono::steady_clock::now();
  nlohmann::ordered_json report;
  if (arguments.text("method", "rtn") == "awq") {
    const AwqWeight weight{.weight = layer.weight, .rows = layer.rows, .format = layer.format};
    const AwqScales found = search_awq_scales({&weight, 1}, layer.columns, layer.statistics, {}, control);
    write(arguments.output, {{.name = "scales", .dtype = DType::kF32, .shape = {layer.columns}}},
          {{"scales", std::as_bytes(std::span(found.scales))}});
    report = {{"method", "awq"},
              {"exponent", found.exponent},
              {"output_error", found.error},
              {"unscaled_error", found.unscaled_error}};
  } else {
    const RoundedWeight rounded = round_layer(layer, arguments, control);
    report["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    write_rounded(layer, rounded, arguments.output);
    report["method"] = to_string(rounded.method);
    report["fell_back"] = rounded.fell_back;
    report["output_error"] =
        output_error(layer.weight, rounded, layer.rows, layer.columns, layer.format, layer.statistics, control);
  }
  std::cout << report.dump() << "\n";
}

}  // namespace
}  // namespace diffulex_edge

int main(int count, char** words) {
  try {
    diffulex_edge::run(diffulex_edge::parse(count, words));
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "round_weight: " << error.what() << "\n";
    return 1;
  }
}
