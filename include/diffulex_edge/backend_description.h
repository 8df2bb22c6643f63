// What a backend says of itself. The command's options, the support matrix, `inspect` and the Python package are made
// from it, so that none of them knows a backend by name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "diffulex_edge/inspection.h"
#include "diffulex_edge/progress.h"
#include "diffulex_edge/quantization.h"

namespace diffulex_edge {

// What a backend can do with a quantization format.
enum class SupportLevel { kFull, kPartial, kUnsupported };
std::string_view to_string(SupportLevel level);  // "full", "partial", "unsupported"
struct Support {
  SupportLevel level = SupportLevel::kUnsupported;
  std::string note;    // what happens, or why not
  std::string advice;  // where it is not supported: what to do
};

// An entry of BackendConfig::backend_options, whose values are text. The command has it as a flag: "chunk_size" is
// --chunk-size.
struct BackendOption {
  enum class Type {
    kText,
    kChoice,  // one of `choices`
    kCount,   // a whole number of at least `least`
    kSize,    // bytes, at least one: "81920", "120MB", "1.5 GiB"
    kFlag,    // "true" or "false"
    kList,    // one or more texts with commas between them; the command's flag may be repeated
    kPython,  // a Python interpreter; the Python package gives the one that runs
  };
  struct Choice {
    std::string value;
    std::string help;  // where the value does not speak for itself
  };

  std::string name;
  Type type = Type::kText;
  std::string help;           // of kChoice optional, if the choices have help
  std::string default_value;  // what holds without the option; empty: nothing that could be given
  std::vector<Choice> choices;
  std::int64_t least = 0;
};
std::string_view to_string(BackendOption::Type type);  // "text", "choice" and so on

// Which InputLengths an artefact can be made for.
enum class LengthSupport {
  kUpTo,   // one number of tokens, and every shorter input runs too
  kExact,  // one number of tokens
  kAny,    // exactly one, several, or a range
};
std::string_view to_string(LengthSupport lengths);  // "up_to", "exact", "any"

// How artefacts of one kind are told from others and read.
struct ArtefactReader {
  enum class Match {
    kNo,
    kLikely,   // its name or its layout says so; `inspect` says what is wrong with it
    kCertain,  // its content says so
  };
  std::string what;        // in sentences: "an ExecuTorch program (.pte)"
  bool is_folder = false;  // else a file: `match` is asked of paths of that kind only
  std::function<Match(const std::filesystem::path&)> match;
  // Throws Error{kBadFile}.
  std::function<Inspection(const std::filesystem::path&, const InspectOptions&, const RunControl&)> inspect;
};

// What is in a delegate of an ExecuTorch program.
struct DelegateContents {
  InspectedDelegate found;                        // nodes, values, files and models
  std::vector<InspectedTensor> tensors;           // constants, without offset
  std::vector<std::span<const std::byte>> bytes;  // of each of them, in the file
  std::span<const std::byte> source;              // what files, models and tensors were read from
};
struct DelegatePayload {
  std::span<const std::byte> bytes;
  std::string file;  // the program's name, for messages
  // Of the program, by key. Throws Error{kBadFile} where it is missing.
  std::function<std::span<const std::byte>(const std::string&)> named_data;
};
struct DelegateReader {
  std::string id;                                                // in programs: "XnnpackBackend"
  std::function<DelegateContents(const DelegatePayload&)> read;  // throws Error{kBadFile}
};

struct BackendDescription {
  std::string name;    // for BackendRegistry::create and --backend: "coreml"
  std::string title;   // in sentences: "Core ML"
  std::string output;  // what an export writes: "a .mlpackage folder"
  std::string suffix;  // of its name, such as ".mlpackage"; empty: any name will do
  LengthSupport lengths = LengthSupport::kExact;
  std::string activation_dtypes;  // which ones it takes and what they mean, for --help
  std::vector<BackendOption> options;
  // Its column of the support matrix. Without it: nothing is supported.
  std::function<Support(QuantizationDtype, QuantizationMode)> support_of;
  std::vector<ArtefactReader> artefacts;  // which it writes; a kind may be another backend's, too
  std::vector<DelegateReader> delegates;  // of its delegates in ExecuTorch programs

  Support support(QuantizationDtype dtype, QuantizationMode mode) const {
    return support_of ? support_of(dtype, mode) : Support{};
  }
};

// Of all registered backends, each kind once.
std::vector<ArtefactReader> artefact_readers();

}  // namespace diffulex_edge
