// From a quantized model to an artefact that a device's runtime executes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/error.h"
#include "diffulex_edge/mixed_precision.h"
#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge {

// The type in which activations flow between operators.
enum class ActivationDtype { FP32, FP16, INT16, INT8 };
std::string_view to_string(ActivationDtype dtype);
ActivationDtype parse_activation_dtype(std::string_view text);

// Which lengths of input an artefact takes, in tokens. The longest is the model's seq_len.
struct InputLengths {
  enum class Kind {
    kFixed,       // one
    kEnumerated,  // several
    kRange,       // all from the first to the last
  };
  Kind kind = Kind::kFixed;
  std::vector<std::int64_t> lengths;  // ascending; of a range the two ends

  std::int64_t longest() const { return lengths.back(); }
};
// "128", "64,128,256" or "8..512". Error{kInvalidArgument} for anything else.
InputLengths parse_input_lengths(std::string_view text);
std::string to_string(const InputLengths& lengths);

struct BackendConfig {
  QuantizationConfig quant_config;
  std::optional<ActivationDtype> activation_dtype;  // default: the backend's own, FP32 for XNNPACK
  // Default: what suits the backend. XNNPACK takes every length up to the model's; Core ML that length alone.
  std::optional<InputLengths> input_lengths;
  std::map<std::string, std::string> backend_options;  // unknown ones are Error{kInvalidArgument}
};

// One stored weight of an artefact.
struct StoredLayer {
  LayerPlan plan;
  std::string kernel;             // what computes with it, such as "qd8 x qb4w"
  std::int64_t stored_bytes = 0;  // values and scales in the file; 0 where another entry's bytes are shared
};

// What a vendor's compiler made of a model, or of a part of it, for one chip.
struct CompiledBinary {
  std::string target;               // "SM8550"
  std::string source;               // the model that it was made from, in the artefact: "model.onnx"
  std::int64_t bytes = 0;           // of the binary
  double seconds = 0.0;             // of the compilation
  std::int64_t peak_rss_bytes = 0;  // of the compiler's process
};

// Where a compiled artefact's operators are executed, the same for each of its chips.
struct Placement {
  std::map<std::string, std::int64_t> device;  // how many of each type
  std::map<std::string, std::int64_t> host;
  std::vector<CompiledBinary> binaries;
};

struct ExportMetadata {
  std::string backend;
  std::string method;        // "forward"
  std::int64_t seq_len = 0;  // upper bound
  std::string activation_dtype;
  std::int64_t parameters = 0;
  double original_memory_mb = 0.0;   // MiB of the weights in FP32
  double quantized_memory_mb = 0.0;  // MiB of the weights and scales as stored in the file
  std::int64_t file_bytes = 0;       // of the artefact; in a dry run as predicted, which is exact
  bool dry_run = false;
  double seconds = 0.0;
  std::int64_t peak_rss_bytes = 0;                      // of this process, so far
  std::vector<std::string> operators_outside_delegate;  // in order of execution
  std::optional<Placement> placement;                   // where a vendor's compiler ran
  std::vector<StoredLayer> layers;
  std::vector<std::string> warnings;

  double memory_reduction_pct() const;
  double compression_ratio() const;
};

struct ExportResult {
  bool success = false;
  std::string error_message;  // one line; empty on success
  std::optional<ErrorCode> error_code;
  ExportMetadata metadata;
};

// What a backend can do with a quantization format.
enum class SupportLevel { kFull, kPartial, kUnsupported };
std::string_view to_string(SupportLevel level);  // "full", "partial", "unsupported"
struct Support {
  SupportLevel level = SupportLevel::kUnsupported;
  std::string note;  // what happens, or why not
};

class EdgeBackend {
 public:
  explicit EdgeBackend(BackendConfig config) : config_(std::move(config)) {}
  virtual ~EdgeBackend() = default;
  EdgeBackend(const EdgeBackend&) = delete;
  EdgeBackend& operator=(const EdgeBackend&) = delete;
  EdgeBackend(EdgeBackend&&) = delete;
  EdgeBackend& operator=(EdgeBackend&&) = delete;

  const BackendConfig& config() const { return config_; }

  // Throw Error for a config that no model could be exported with, and for a name that the artefact can't have. Exports
  // begin with them; whoever calibrates before, which may take long, calls them before that.
  virtual void check_config() const {}
  virtual void check_target(const std::filesystem::path& /*target*/) const {}

  // Quantizes, lowers and writes `model` to `target`. Never throws Error: failures come back in the result, and
  // `target` is then as it was before.
  ExportResult export_model(const Model& model, const std::filesystem::path& target, const RunControl& control = {});
  // The same without reading weights or writing a file: metadata as export_model would return it.
  ExportResult dry_run(const Model& model);

  virtual std::string_view name() const = 0;
  virtual Support support(QuantizationDtype dtype, QuantizationMode mode) const = 0;

 protected:
  // Writes the file, or only predicts where `target` is null. Throws Error.
  virtual ExportMetadata run(const Model& model, const std::filesystem::path* target, const RunControl& control) = 0;

 private:
  ExportResult guarded(const std::function<ExportMetadata()>& work) const;

  BackendConfig config_;
};

// ExecuTorch programs (.pte) with one XNNPACK delegate call. See docs/FORMATS.md.
class XNNPACKBackend final : public EdgeBackend {
 public:
  // activation_dtype INT8 is mode STATIC: it replaces WEIGHT_ONLY in config().
  explicit XNNPACKBackend(BackendConfig config = {});
  void check_config() const override;
  std::string_view name() const override { return "xnnpack"; }
  Support support(QuantizationDtype dtype, QuantizationMode mode) const override;

 protected:
  ExportMetadata run(const Model& model, const std::filesystem::path* target, const RunControl& control) override;
};

// Core ML packages (.mlpackage). Options: minimum_deployment_target (iOS16, iOS17, iOS18 or macOS13, macOS14, macOS15;
// default iOS18), compute_unit (all, cpu_only, cpu_and_gpu, cpu_and_ne: noted in the package), palette (true: INT4 as
// tables of 16 values, which every target has), palette_group (rows that share a table; 0: all), chunk_size (largest
// weight file in bytes: the model is cut between layers), chunks (pipeline: parts in one package, the default;
// packages: a folder of packages with a manifest.json), container (mlpackage, or pte for ExecuTorch).
// Activations flow in FP16 unless the config's dtype is FP32 or activation_dtype says FP32.
class CoreMLBackend final : public EdgeBackend {
 public:
  // activation_dtype INT8 is mode STATIC, as for XNNPACK.
  explicit CoreMLBackend(BackendConfig config = {});
  void check_config() const override;
  void check_target(const std::filesystem::path& target) const override;
  std::string_view name() const override { return "coreml"; }
  Support support(QuantizationDtype dtype, QuantizationMode mode) const override;

 protected:
  ExportMetadata run(const Model& model, const std::filesystem::path* target, const RunControl& control) override;
};

// Folders with an ONNX model (model.onnx, model.onnx.data), a manifest.json and, in mode static, encodings.json; for
// each SoC asked for a folder with a context binary for its NPU, if the vendor's compiler is at hand: the Python
// package onnxruntime-qnn. One length of input. Options: soc (names with commas, such as SM8550,SM8650), qnn_python
// (the interpreter that has the package; default: $VIRTUAL_ENV's, then python3), embedding_on (npu, the default; host:
// a model of its own for the CPU, for vocabularies that the NPU's compiler takes too long for), shards (models to cut
// the NPU's part into, between layers), container (onnx, the default; pte: an ExecuTorch program around each context
// binary as well).
// In mode static every activation is an integer of 16 bits, or 8 with activation_dtype INT8.
class QNNBackend final : public EdgeBackend {
 public:
  // activation_dtype INT8 or INT16 is mode STATIC: it replaces WEIGHT_ONLY in config().
  explicit QNNBackend(BackendConfig config = {});
  void check_config() const override;
  void check_target(const std::filesystem::path& target) const override;
  std::string_view name() const override { return "qnn"; }
  Support support(QuantizationDtype dtype, QuantizationMode mode) const override;

 protected:
  ExportMetadata run(const Model& model, const std::filesystem::path* target, const RunControl& control) override;
};

// Backends by name. The library's own are registered from the start; others can be added at any time, from any thread.
class BackendRegistry {
 public:
  using Factory = std::function<std::unique_ptr<EdgeBackend>(BackendConfig)>;

  static BackendRegistry& instance();
  // Error{kInvalidArgument} if the name is taken.
  void register_backend(std::string name, Factory factory);
  // Error{kUnsupported} for an unknown name, listing the known ones.
  std::unique_ptr<EdgeBackend> create(std::string_view name, BackendConfig config) const;
  std::vector<std::string> list() const;

 private:
  BackendRegistry();
  struct State;
  std::shared_ptr<State> state_;
};

// Sizes of the artefacts that a backend would make of `model`, from its dry run, for `config` with another
// quantization. Keeps a reference to `model`. The predictor throws the backend's Error.
SizePredictor size_predictor(const Model& model, std::string backend, BackendConfig config);

}  // namespace diffulex_edge
