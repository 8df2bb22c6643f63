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

#include "diffulex_edge/activations.h"
#include "diffulex_edge/backend_description.h"
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
  // Default: the backend's own, FP32 for XNNPACK. INT8 and INT16 are those of mode STATIC, which they ask for.
  std::optional<ActivationDtype> activation_dtype;
  // Default: what suits the backend. XNNPACK takes every length up to the model's; Core ML only that length.
  std::optional<InputLengths> input_lengths;
  std::map<std::string, std::string> backend_options;  // by name, as BackendDescription::options lists them
};

// One stored weight of an artefact.
struct StoredLayer {
  LayerPlan plan;
  std::string kernel;             // what computes with it, such as "qd8 x qb4w"
  std::int64_t stored_bytes = 0;  // values and scales in the file; 0 where another entry's bytes are shared
};

// What a vendor's compiler made of a model, or of a part of it, for one chip.
struct CompiledBinary {
  std::string soc;                  // "SM8550"
  std::string source;               // the model that it was made from, in the artefact: "model.onnx"
  std::int64_t bytes = 0;           // of the binary
  double seconds = 0.0;             // of the compilation
  std::int64_t peak_rss_bytes = 0;  // of the compiler's process
};

// Where a compiled artefact's operators are executed, the same for each of its chips.
struct Placement {
  std::map<std::string, std::int64_t> npu;  // how many of each type
  std::map<std::string, std::int64_t> host;
  std::vector<CompiledBinary> binaries;
};

// Keys and values that an artefact keeps from one execution to the next.
struct ArtefactCache {
  std::int64_t tokens = 0;  // that fit
  std::string dtype;        // "fp16", "fp32", "uint16", "uint8"
  std::int64_t bytes = 0;   // of memory, from the start
};

struct ExportMetadata {
  std::string backend;
  std::string method;        // "forward"
  std::int64_t seq_len = 0;  // upper bound; of one step, where the artefact has a cache
  std::string activation_dtype;
  std::int64_t parameters = 0;
  double original_memory_mb = 0.0;           // MB (10^6 bytes) of the weights in FP32
  double quantized_memory_mb = 0.0;          // MB of the weights and scales as stored in the file
  std::int64_t file_bytes = 0;               // of the artefact; in a dry run as predicted, which is exact
  std::optional<std::int64_t> bundle_bytes;  // where it is in a bundle: of all files there
  bool dry_run = false;
  double seconds = 0.0;
  std::int64_t peak_rss_bytes = 0;                      // of this process, so far
  std::vector<std::string> operators_outside_delegate;  // in order of execution
  std::optional<ArtefactCache> cache;
  std::optional<Placement> placement;  // where a vendor's compiler ran
  std::vector<StoredLayer> layers;
  std::vector<std::string> warnings;

  double memory_reduction_pct() const;
  double compression_ratio() const;
};

struct ExportResult {
  bool success = false;
  std::string error_message;  // error->what(); empty on success
  std::optional<ErrorCode> error_code;
  std::optional<Error> error;  // with its parts; none on success
  ExportMetadata metadata;

  // Throws `error`, if there is one.
  void check() const;
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

  // What the config asks for, as this backend reads it; the base has INT8 and INT16 activations ask for mode STATIC.
  virtual QuantizationConfig quantization() const;
  // What the target computes with, under this config; the base has XNNPACK's kernels. Plans, calibration and evaluation
  // follow it.
  virtual TargetArithmetic arithmetic() const { return {}; }

  // Throw Error for a config that no model could be exported with, and for a name that the artefact can't have. Exports
  // begin with them; whoever calibrates before, which may take long, calls them before that.
  virtual void check_config() const {}
  virtual void check_target(const std::filesystem::path& /*target*/) const {}

  // Quantizes, lowers and writes `model` to `target`, with what calibration found of it. Failures come back in the
  // result, and `target` is then as it was before. Throws only what control.on_progress throws, unchanged.
  ExportResult export_model(const Model& model, const std::filesystem::path& target, const RunControl& control = {},
                            const CalibrationFindings& findings = {});
  // The same without reading weights or writing a file: metadata as export_model would return it.
  ExportResult dry_run(const Model& model, const CalibrationFindings& findings = {});

  virtual std::string_view name() const = 0;

 protected:
  // Writes the file, or only predicts where `target` is null. Throws Error.
  virtual ExportMetadata run(const Model& model, const CalibrationFindings& findings,
                             const std::filesystem::path* target, const RunControl& control) = 0;
  // config() with quantization() in it.
  BackendConfig resolved() const;

 private:
  ExportResult guarded(const std::function<ExportMetadata()>& work) const;

  BackendConfig config_;
};

// Backends by name. The library's own are registered from the start; others can be added at any time, from any thread.
class BackendRegistry {
 public:
  using Factory = std::function<std::unique_ptr<EdgeBackend>(BackendConfig)>;

  static BackendRegistry& instance();
  // Error{kInvalidArgument} if the name is taken, if the description contradicts itself, and if an option has the name
  // of another backend's that is a flag, a list or a single value where this one is not.
  void register_backend(BackendDescription description, Factory factory);
  // The same for a backend that says no more of itself: its options are not checked.
  void register_backend(std::string name, Factory factory);
  // Error{kUnsupported} for an unknown name, listing the known ones; Error{kInvalidArgument} for options that the
  // description does not have, and for values that are not of their types.
  std::unique_ptr<EdgeBackend> create(std::string_view name, BackendConfig config) const;
  // In alphabetical order.
  std::vector<std::string> list() const;

  // Errors as create.
  BackendDescription describe(std::string_view name) const;
  // In order of registration, so that the first is the default of commands.
  std::vector<BackendDescription> descriptions() const;

 private:
  BackendRegistry();
  struct State;
  std::shared_ptr<State> state_;
};

// Sizes of the artefacts that a backend would make of `model`, from its dry run, for `config` with another
// quantization. Keeps a reference to `model`. The predictor throws the backend's Error.
SizePredictor size_predictor(const Model& model, std::string backend, BackendConfig config,
                             CalibrationFindings findings = {});

}  // namespace diffulex_edge
