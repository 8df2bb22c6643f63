// What to quantize and how, what came of it, and the quantizers that decide it for each layer of a model.
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

enum class QuantizationDtype { FP32, FP16, INT8, INT4 };

// DYNAMIC: activations are quantized at run time, one scale for each token. STATIC: with scales from calibration.
// WEIGHT_ONLY: activations stay floating-point.
enum class QuantizationMode { DYNAMIC, STATIC, WEIGHT_ONLY };

// How a layer's weights become integers. RTN rounds to nearest; MSE and HQQ look for better scales in the weight alone;
// GPTQ and AWQ use what calibration saw of the layer's input; AUTO takes the best for each layer.
enum class RoundingMethod { RTN, MSE, HQQ, GPTQ, AWQ, AUTO };

// q = clamp(round(x / scale) + zero_point), x is about (q - zero_point) * scale.
struct AffineScale {
  float scale = 1.0F;
  std::int32_t zero_point = 0;

  friend bool operator==(const AffineScale&, const AffineScale&) = default;
};

// The scale with which signed integers of `bits` bits (8 or 16) cover `range`: (max - min) / (2^bits - 1), at least the
// least normal float32; 0 is represented exactly.
AffineScale affine_scale(const ActivationRange& range, int bits);

std::string_view to_string(QuantizationDtype dtype);  // "fp32", "fp16", "int8", "int4"
std::string_view to_string(QuantizationMode mode);    // "dynamic", "static", "weight_only"
std::string_view to_string(RoundingMethod method);    // "rtn", "mse", "hqq", "gptq", "awq", "auto"
// Any letter case; Error{kInvalidArgument} for anything else.
QuantizationDtype parse_quantization_dtype(std::string_view text);
QuantizationMode parse_quantization_mode(std::string_view text);
RoundingMethod parse_rounding_method(std::string_view text);

// One layer's format, as mixed-precision plans name it.
struct LayerFormat {
  QuantizationDtype dtype = QuantizationDtype::FP32;
  std::int64_t group_size = 0;  // INT4: 32, 64, 128, 256, or 0 for one scale for each output channel; 0 otherwise

  friend bool operator==(const LayerFormat&, const LayerFormat&) = default;
};
std::string to_string(const LayerFormat& format);  // "fp32", "fp16", "int8", "int4_g32", ..., "int4_channel"
LayerFormat parse_layer_format(std::string_view text);
// Every format, from the finest to the coarsest.
std::vector<LayerFormat> all_layer_formats();

struct QuantizationConfig {
  QuantizationDtype dtype = QuantizationDtype::FP32;
  QuantizationMode mode = QuantizationMode::WEIGHT_ONLY;
  // INT4: neighbours along the input that share a scale: 32, 64, 128, 256, or 0 for one scale for each output channel.
  std::int64_t group_size = 32;
  // Layers that keep FP32: case-insensitive substrings of a layer's canonical name ("layers.3.q_proj") or of its name
  // in the checkpoint. "embedding" is every embedding, whatever its name.
  std::vector<std::string> exclude_layers = {"lm_head", "norm", "embedding"};
  // Formats for the embedding and the head ("lm_head", or a name that ends in ".lm_head"), whatever exclude_layers
  // says.
  std::optional<QuantizationDtype> embedding_dtype;
  std::optional<QuantizationDtype> head_dtype;
  RoundingMethod method = RoundingMethod::RTN;
  // Mixed precision: each linear layer's and the embedding's format by canonical name, over all of the above but mode
  // and method. Empty, or with every such layer of the model and no other.
  std::map<std::string, LayerFormat, std::less<>> layer_formats;
  // STATIC: what calibration found, by the layer's canonical name ("layers.3.q_proj"). Every linear layer that becomes
  // INT8, or INT4 with one scale for each channel, needs an entry; others are not looked at.
  std::map<std::string, LayerActivations, std::less<>> activations;
  // STATIC: bits of an activation, 8 or 16. Ranges of 16-bit ones cover all that calibration saw.
  int activation_bits = 8;
  // STATIC: every value of the graph is an integer, not the quantized layers' inputs and outputs alone. For backends
  // that compute so (QNN); needs graph_activations, which calibration fills.
  bool static_everywhere = false;
  std::optional<GraphActivations> graph_activations;
  // INT4 as palettes: tables of 16 values that k-means finds. For backends that have them (Core ML); `group_size` and
  // `method` say nothing then.
  bool palettes = false;
  // Palettes: the mean square of each column of a layer's input by its canonical name, as calibration found it. Weighs
  // the squared errors; where there is no entry, all columns are alike.
  std::map<std::string, std::vector<float>, std::less<>> input_importance;
  // FP16: write ±65504 for weights beyond it instead of failing.
  bool saturate_fp16 = false;
  // INT4: fail where group_size does not divide a layer's input, instead of taking the next smaller size that does.
  bool strict_group_size = false;
};

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
  std::optional<LayerActivations> activations;  // mode STATIC: of a quantized linear layer

  std::int64_t parameters() const { return rows * columns; }
  std::int64_t value_bytes() const { return rows * format.row_bytes(columns); }
  std::int64_t scale_bytes() const { return rows * format.scales_per_row(columns) * format.scale_bytes(); }
};

struct QuantizationPlan {
  QuantizationConfig config;
  std::vector<LayerPlan> layers;

  // The plan of one use of a weight. Throws Error{kInternal} where there is none.
  const LayerPlan& at(std::string_view layer, std::string_view tensor) const;
};

struct QuantizationResult {
  QuantizationPlan plan;
  double original_memory_mb = 0.0;   // MiB of all weights in FP32, tied ones once
  double quantized_memory_mb = 0.0;  // MiB of all weights and scales as planned, equal ones once
  std::int64_t parameters = 0;
  std::vector<std::string> warnings;

  double memory_reduction_pct() const;
  double compression_ratio() const;  // original / quantized
};

// Makes plans of one dtype. Errors: kInvalidArgument for a config of another dtype or an impossible one (group size,
// re-quantizing a quantized checkpoint, mode STATIC without a layer's activations), kUnsupported for what this version
// can't do.
class BaseQuantizer {
 public:
  virtual ~BaseQuantizer() = default;
  virtual QuantizationResult quantize(const Model& model, const QuantizationConfig& config) const = 0;
};

class FP16Quantizer final : public BaseQuantizer {
 public:
  QuantizationResult quantize(const Model& model, const QuantizationConfig& config) const override;
};

// Symmetric, one scale for each output channel: scale = max_abs / 127, q = clamp(round(w / scale), -128, 127).
class INT8Quantizer final : public BaseQuantizer {
 public:
  QuantizationResult quantize(const Model& model, const QuantizationConfig& config) const override;
};

// Symmetric groups along the input, values in [-8, 7], scales rounded to bfloat16 before the weights.
class INT4Quantizer final : public BaseQuantizer {
 public:
  QuantizationResult quantize(const Model& model, const QuantizationConfig& config) const override;
};

// The facade: picks the quantizer by config.dtype; FP32 keeps every weight in FP32.
class Quantizer final : public BaseQuantizer {
 public:
  QuantizationResult quantize(const Model& model, const QuantizationConfig& config) const override;
};

QuantizationResult quantize_model(const Model& model, const QuantizationConfig& config);

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
