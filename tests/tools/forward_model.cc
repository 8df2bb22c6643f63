// forward_model MODEL CONFIG: reads lines of token ids (JSON arrays) on stdin and writes the logits of all as float32
// to stdout. CONFIG is a JSON object: {} for the checkpoint as it is, or dtype, mode, group_size, embedding_dtype,
// head_dtype; "arithmetic": "fast" for packed weights.

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "diffulex_edge/diffulex_edge.h"

namespace {

using namespace diffulex_edge;

QuantizationConfig parse(const nlohmann::json& json, const Model& model) {
  QuantizationConfig config = default_quantization_config(model);
  if (json.contains("dtype")) {
    config.dtype = parse_quantization_dtype(json["dtype"].get<std::string>());
  }
  if (json.contains("mode")) {
    config.mode = parse_quantization_mode(json["mode"].get<std::string>());
  }
  if (json.contains("group_size")) {
    config.group_size = json["group_size"];
  }
  if (json.contains("embedding_dtype")) {
    config.embedding_dtype = parse_quantization_dtype(json["embedding_dtype"].get<std::string>());
  }
  if (json.contains("head_dtype")) {
    config.head_dtype = parse_quantization_dtype(json["head_dtype"].get<std::string>());
  }
  return config;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: forward_model MODEL CONFIG\n";
    return 2;
  }
  try {
    const nlohmann::json json = nlohmann::json::parse(argv[2]);
    const Model model = load_model(argv[1]);
    TokenSequences sequences;
    for (std::string line; std::getline(std::cin, line);) {
      sequences.push_back(nlohmann::json::parse(line).get<std::vector<std::int64_t>>());
    }
    const QuantizationResult quantized = quantize_model(model, parse(json, model));
    const bool as_is = json.empty() && !model.stored_quantization;
    const QuantizationPlan* plan = as_is ? nullptr : &quantized.plan;
    const bool fast = parse_quantized_arithmetic(json.value("arithmetic", "simulated")) == QuantizedArithmetic::FAST;
    for (const auto& logits : fast ? PackedModel(model, plan).forward(sequences) : forward(model, sequences, plan)) {
      std::cout.write(reinterpret_cast<const char*>(logits.data()),
                      static_cast<std::streamsize>(logits.size() * sizeof(float)));
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return std::cout.flush() ? 0 : 1;
}
