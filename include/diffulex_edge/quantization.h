// What to quantize and how, what a target computes with, and the quantizers that decide for each layer of a model.
//
// A quantizer makes a plan; no weight is touched before a writer (a backend, or write_quantized_checkpoint) streams the
// weights through the plan.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/activations.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/weight_format.h"

namespace diffulex_edge {

// DYNAMIC: activations are quantized at run time, one scale for each token. STATIC: with scales from calibration.
// WEIGHT_ONLY: activations stay floating-point.
enum class QuantizationMode { DYNAMIC, STATIC, WEIGHT_ONLY };

// How a layer's weights become integers. RTN rounds to nearest; MSE and HQQ look for better scales from the weight
// only; GPTQ and AWQ use what calibration saw of the layer's input; AUTO takes the best for each layer.
enum class RoundingMethod { RTN, MSE, HQQ, GPTQ, AWQ, AUTO };

std::string_view to_string(QuantizationDtype dtype);  // FormatRow::name: "fp32", "int4", "palette4"
std::string_view to_string(QuantizationMode mode);    // "dynamic", "static", "weight_only"
std::string_view to_string(RoundingMethod method);    // "rtn", "mse", "hqq", "gptq", "awq", "auto"
// Any letter case; Error{kInvalidArgument} for anything else.
QuantizationDtype parse_quantization_dtype(std::string_view text);
QuantizationMode parse_quantization_mode(std::string_view text);
RoundingMethod parse_rounding_method(std::string_view text);

// One layer's format, as mixed-precision plans name it.
struct LayerFormat {
  QuantizationDtype dtype = QuantizationDtype::FP32;
  // Where the format has groups along the input (INT4): 32, 64, 128, 256, or 0 for one scale for each output channel; 0
  // otherwise.
  std::int64_t group_size = 0;

  friend bool operator==(const LayerFormat&, const LayerFormat&) = default;
};
// "fp32", "fp16", "int8", "int4_g32", ..., "int4_channel", "palette4"
std::string to_string(const LayerFormat& format);
LayerFormat parse_layer_format(std::string_view text);

// What the user asks for. Nobody changes it once it was read: what calibration finds and what a target can do are types
// of their own, CalibrationFindings and TargetArithmetic.
struct QuantizationConfig {
  QuantizationDtype dtype = QuantizationDtype::FP32;
  QuantizationMode mode = QuantizationMode::WEIGHT_ONLY;
  // INT4: neighbours along the input that share a scale: 32, 64, 128, 256, or 0 for one scale for each output channel.
  std::int64_t group_size = 32;
  // Layers that keep FP32: case-insensitive substrings of a layer's canonical name ("layers.3.q_proj") or of its name
  // in the checkpoint. "embedding" is every embedding, whatever its name.
  std::vector<std::string> exclude_layers = {"lm_head", "norm", "embedding", "router"};
  // Formats for the embedding and the head ("lm_head", or a name that ends in ".lm_head"), whatever exclude_layers
  // says.
  std::optional<QuantizationDtype> embedding_dtype;
  std::optional<QuantizationDtype> head_dtype;
  RoundingMethod method = RoundingMethod::RTN;
  // Mixed precision: each linear layer's and the embedding's format by canonical name, over all of the above but mode
  // and method. Empty, or with every such layer of the model and no other.
  std::map<std::string, LayerFormat, std::less<>> layer_formats;
  // Palettes: rows of a weight that share a table of values; 0: all of them.
  std::int64_t palette_group = 0;
  // FP16: write ±65504 for weights beyond it instead of failing.
  bool saturate_fp16 = false;
  // INT4: fail where group_size does not divide a layer's input, instead of taking the next smaller size that does.
  bool strict_group_size = false;
};

// What a target computes with in quantized layers, beside floats: a backend says it (EdgeBackend::arithmetic). By
// default XNNPACK's, which the CPU runtime executes as well.
struct TargetArithmetic {
  // Mode DYNAMIC: inputs become 8-bit integers at run time. Otherwise such layers compute in floating point.
  bool has_dynamic = true;
  // The only kernel for weights in groups takes dynamic 8-bit inputs, in every mode.
  bool groups_are_dynamic = true;
  // Mode STATIC has a kernel for weights in groups.
  bool has_static_groups = false;
  // Mode STATIC: every value of the graph is an integer, not only the inputs and outputs of quantized layers.
  bool static_everywhere = false;
  // Mode STATIC: of an activation, 8 or 16. Ranges of 16-bit ones cover all that calibration saw.
  int static_bits = 8;
  // Where floating point is float16: nowhere, in layers whose weights are FP16, or in all layers.
  enum class Half { kNever, kFP16Weights, kAlways };
  Half half = Half::kNever;

  friend bool operator==(const TargetArithmetic&, const TargetArithmetic&) = default;
};

// How a layer computes on its target.
struct LayerArithmetic {
  enum class Activations {
    kFloat32,
    kFloat16,
    kDynamic,        // the input is integers, with a scale for each token
    kStatic,         // input and output are integers, with scales from calibration
    kStaticInGraph,  // the same, and so are all values around the layer
  };
  Activations activations = Activations::kFloat32;
  int bits = 0;  // of integers

  friend bool operator==(const LayerArithmetic&, const LayerArithmetic&) = default;
};
std::string to_string(const LayerArithmetic& arithmetic);  // "fp32", "fp16", "dynamic int8", "static int16", ...

// What a weight is used for.
enum class LayerRole { kLinear, kEmbedding, kNorm, kBias };
std::string_view to_string(LayerRole role);

// One weight and the format that it gets.
struct LayerPlan {
  std::string layer;   // canonical name of the operator that uses it; tied weights appear once for each use
  std::string tensor;  // name in the checkpoint
  LayerRole role = LayerRole::kLinear;
  std::int64_t rows = 1;
  std::int64_t columns = 0;
  WeightFormat source;  // as the checkpoint stores it
  WeightFormat format;  // as it will be stored
  QuantizationDtype dtype = QuantizationDtype::FP32;
  bool excluded = false;                        // matched exclude_layers
  RoundingMethod method = RoundingMethod::RTN;  // of a quantized format
  LayerArithmetic arithmetic;
  std::optional<LayerActivations> activations;  // of kStatic
  std::vector<float> importance;                // of columns, for a palette; empty: all alike

  std::int64_t parameters() const { return rows * columns; }
  std::int64_t value_bytes() const { return rows * format.row_bytes(columns); }
  // Of scales or tables.
  std::int64_t scale_bytes() const {
    return rows * format.scales_per_row(columns) * format.scale_bytes() + format.table_bytes(rows);
  }
};

struct QuantizationPlan {
  QuantizationConfig config;     // as asked for
  CalibrationFindings findings;  // those given, or else those that the checkpoint brings with it
  TargetArithmetic target;
  std::vector<LayerPlan> layers;

  // Whether every value of the graph is an integer: then `findings.graph` has their ranges.
  bool is_static_everywhere() const;
  // The plan of one use of a weight. Throws Error{kInternal} where there is none.
  const LayerPlan& at(std::string_view layer, std::string_view tensor) const;
};

struct QuantizationResult {
  QuantizationPlan plan;
  double original_memory_mb = 0.0;   // MB (10^6 bytes) of all weights in FP32, tied ones once
  double quantized_memory_mb = 0.0;  // MB of all weights and scales as planned, equal ones once
  std::int64_t parameters = 0;
  std::vector<std::string> warnings;

  double memory_reduction_pct() const;
  double compression_ratio() const;  // original / quantized
};

// Makes plans of one dtype, with what calibration found for a target. Errors: kInvalidArgument for a config of another
// dtype or an impossible one (group size, re-quantizing a quantized checkpoint, mode STATIC without a layer's
// activations), kUnsupported for what this version or the target can't do.
class BaseQuantizer {
 public:
  virtual ~BaseQuantizer() = default;
  virtual QuantizationResult quantize(const Model& model, const QuantizationConfig& config,
                                      const CalibrationFindings& findings, const TargetArithmetic& target) const = 0;
  // Without findings, for the CPU runtime.
  QuantizationResult quantize(const Model& model, const QuantizationConfig& config) const {
    return quantize(model, config, {}, {});
  }
};

class FP16Quantizer final : public BaseQuantizer {
 public:
  using BaseQuantizer::quantize;
  QuantizationResult quantize(const Model& model, const QuantizationConfig& config, const CalibrationFindings& findings,
                              const TargetArithmetic& target) const override;
};

// Symmetric, one scale for each output channel: scale = max_abs / 127, q = clamp(round(w / scale), -128, 127).
class INT8Quantizer final : public BaseQuantizer {
 public:
  using BaseQuantizer::quantize;
  QuantizationResult quantize(const Model& model, const QuantizationConfig& config, const CalibrationFindings& findings,
                              const TargetArithmetic& target) const override;
};

// Symmetric groups along the input, values in [-8, 7], scales rounded to bfloat16 before the weights.
class INT4Quantizer final : public BaseQuantizer {
 public:
  using BaseQuantizer::quantize;
  QuantizationResult quantize(const Model& model, const QuantizationConfig& config, const CalibrationFindings& findings,
                              const TargetArithmetic& target) const override;
};

// The facade: picks the quantizer by config.dtype; FP32 keeps every weight in FP32.
class Quantizer final : public BaseQuantizer {
 public:
  using BaseQuantizer::quantize;
  QuantizationResult quantize(const Model& model, const QuantizationConfig& config, const CalibrationFindings& findings,
                              const TargetArithmetic& target) const override;
};

QuantizationResult quantize_model(const Model& model, const QuantizationConfig& config,
                                  const CalibrationFindings& findings = {}, const TargetArithmetic& target = {});

// Completes a config with what `diffulex-edge quantize` noted in the model's config.json, for a caller who did not say
// a dtype of his own. Unchanged for other checkpoints.
QuantizationConfig default_quantization_config(const Model& model);

// Bytes that a plan's weights take in files, equal tensors of one format once.
std::int64_t planned_bytes(const QuantizationPlan& plan);

// Writes the folder `target`: model.safetensors with the weights as planned, config.json with "quantization_config",
// and copies of the tokenizer's files. The folder appears when complete; an existing one is an error unless empty.
// Biases and norms are kept as the checkpoint has them. Returns the bytes written to model.safetensors.
std::int64_t write_quantized_checkpoint(const Model& model, const QuantizationPlan& plan,
                                        const std::filesystem::path& target, const RunControl& control = {});

}  // namespace diffulex_edge
