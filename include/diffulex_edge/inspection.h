// What is in a checkpoint or an artefact.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "diffulex_edge/model.h"
#include "diffulex_edge/progress.h"

namespace diffulex_edge {

struct InspectedTensor {
  std::string name;
  // A safetensors dtype, an XNNPACK data type such as "qbint4", or with Core ML f32, f16, i8, i4, palette4 and so on.
  std::string dtype;
  std::vector<std::int64_t> shape;  // logical: an INT4 weight counts its elements, not its bytes
  // Elements of a row that share a scale; of a palette, rows that share a table. 0: none, or all of them.
  std::int64_t group_size = 0;
  std::int64_t bytes = 0;
  std::int64_t offset = 0;  // in its file
  std::string file;         // name of the file; in a Core ML package its path
  std::string sha256;       // of the bytes; empty without hashes
};

struct InspectedValue {
  std::string dtype;
  std::vector<std::int64_t> shape;  // upper bounds where dynamic
  bool dynamic = false;
};

// An input, an output or a state of a Core ML model, as its description promises it.
struct InspectedFeature {
  std::string name;
  std::string dtype;                                         // of the elements, or what else it is, such as "image"
  std::vector<std::int64_t> shape;                           // the only one or the default; empty where none is given
  std::vector<std::vector<std::int64_t>> enumerated_shapes;  // all shapes that are taken
  std::vector<std::pair<std::int64_t, std::int64_t>> shape_range;  // or bounds for each dimension; -1: no upper one
};

struct InspectedFeatures {
  std::vector<InspectedFeature> inputs;
  std::vector<InspectedFeature> outputs;
  std::vector<InspectedFeature> states;
};

struct InspectedFunction {
  std::string name;
  std::string opset;                               // such as "CoreML8", or with ONNX "ai.onnx 23"
  std::map<std::string, std::int64_t> operations;  // how many of each
  InspectedFeatures features;                      // where a model describes each function by itself
};

struct InspectedModel {
  std::string name;                        // of the package in a folder of packages, of the part in a pipeline
  std::string type;                        // "onnx", or of Core ML "mlProgram", "pipeline", "neuralNetwork" and so on
  std::int64_t specification_version = 0;  // of ONNX, the IR version
  std::string description;
  InspectedFeatures features;
  std::map<std::string, std::string> metadata;  // user-defined
  std::vector<InspectedFunction> functions;     // of an ML Program
  std::vector<InspectedModel> models;           // of a pipeline
};

struct InspectedFile {
  std::string path;
  std::int64_t bytes = 0;
};

struct InspectedDelegate {
  std::string id;
  std::int64_t bytes = 0;
  std::map<std::string, std::string> compile_specs;
  // How many nodes of each kind, and how many values of each data type that are no constants, such as "qint8" for
  // static activations; empty for other backends than XNNPACK.
  std::map<std::string, std::int64_t> nodes;
  std::map<std::string, std::int64_t> values;
  // Of Core ML, where no delegate before has the same ones: the package.
  std::vector<InspectedFile> files;
  std::vector<InspectedModel> models;
};

struct InspectedMethod {
  std::string name;
  std::vector<InspectedValue> inputs;
  std::vector<InspectedValue> outputs;
  std::vector<std::string> operators;  // outside the delegates, in order of execution
  std::vector<InspectedDelegate> delegates;
  std::int64_t arena_bytes = 0;  // planned memory for inputs, outputs and what passes between instructions
};

// A method of a program that computes nothing: its name says what its value is, or of a list its values.
struct InspectedConstant {
  using Value = std::variant<std::int64_t, bool, double, std::string>;
  std::string name;
  std::vector<Value> values;
  bool is_list = false;
};

// The folder in which an artefact lies with its tokenizer and what decoding has to know.
struct InspectedBundle {
  std::filesystem::path path;
  std::string backend;
  std::vector<InspectedFile> files;  // beside the artefact
  std::string generation;            // generation.json, as JSON text
};

struct Inspection {
  // "checkpoint", "safetensors", or of an artefact what the backend that reads it calls it: "executorch_program",
  // "coreml_package", "coreml_pipeline" (a package with a model of several parts), "coreml_chunks" (a folder with a
  // package for each part), "qnn_package" (a folder of ONNX models).
  std::string kind;
  std::filesystem::path path;
  std::int64_t file_bytes = 0;  // of all files that hold it
  std::string sha256;           // of a single file
  std::optional<ModelConfig> config;
  std::vector<InspectedMethod> methods;
  std::vector<InspectedConstant> metadata;  // of a program, in the order of the file
  std::vector<InspectedModel> models;       // of each package
  std::vector<InspectedFile> files;         // of packages
  std::vector<InspectedTensor> tensors;
  std::optional<InspectedBundle> bundle;  // if that was inspected: all else is about its artefact

  // Of a checkpoint. 0 for programs and packages, whose tensors include scales and computed constants.
  std::int64_t parameters() const;
};

struct InspectOptions {
  bool hashes = true;                            // reading every byte for SHA-256
  std::vector<std::string> ignored_config_keys;  // ModelOptions', of a model folder
};

// Recognizes a model folder, a .safetensors file, a bundle, and the artefacts of all registered backends
// (BackendDescription::artefacts) by content. Throws Error{kBadFile} for anything else, for files that contradict
// themselves, and with hashes for a bundle whose files are not those that generation.json describes.
Inspection inspect(const std::filesystem::path& path, const InspectOptions& options = {},
                   const RunControl& control = {});

}  // namespace diffulex_edge
