// The readers of files from anywhere, as fuzzers call them: each takes one input, reads it as programs do, and does
// with it what its user does next. What is fine: to return, or to throw an Error that is not kInternal.
#pragma once

#include <array>
#include <functional>
#include <string_view>

namespace diffulex_edge::fuzz {

// An input is a file, or several (input_folder.h).
void read_chat_template(std::string_view input);
void read_config(std::string_view input);
void read_coreml_package(std::string_view input);
void read_gguf(std::string_view input);
void read_jsonl(std::string_view input);
void read_npy(std::string_view input);
void read_onnx(std::string_view input);
void read_plan(std::string_view input);
void read_program(std::string_view input);
void read_quantized_checkpoint(std::string_view input);
void read_safetensors(std::string_view input);
void read_tokenizer(std::string_view input);

struct Reader {
  std::string_view name;  // of its folder in corpus/
  void (*read)(std::string_view input);
};
inline constexpr std::array<Reader, 12> kReaders = {{{"chat_template", read_chat_template},
                                                     {"config", read_config},
                                                     {"coreml_package", read_coreml_package},
                                                     {"gguf", read_gguf},
                                                     {"jsonl", read_jsonl},
                                                     {"npy", read_npy},
                                                     {"onnx", read_onnx},
                                                     {"plan", read_plan},
                                                     {"program", read_program},
                                                     {"quantized_checkpoint", read_quantized_checkpoint},
                                                     {"safetensors", read_safetensors},
                                                     {"tokenizer", read_tokenizer}}};

// Calls it, and takes an Error that is one sentence for an answer. Throws std::logic_error for any other Error, and
// lets everything else through.
void read_or_refuse(const std::function<void()>& call);

}  // namespace diffulex_edge::fuzz
