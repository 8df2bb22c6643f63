#include "models/prequantized_config.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <string>

#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

[[noreturn]] void refuse(const ConfigReader& quantization, const std::string& what) {
  throw Error(ErrorCode::kUnsupported, quantization.where(), what,
              "start from the unquantized checkpoint, or from one that `diffulex-edge quantize` wrote");
}

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

// -1 is a whole row.
std::int64_t read_group_size(ConfigReader& quantization) {
  const std::int64_t size =
      quantization.integer("group_size").value_or(quantization.integer("q_group_size").value_or(-1));
  if (size != -1 && (size < 1 || size > (std::int64_t{1} << 31U))) {
    quantization.fail("group_size", "is " + std::to_string(size) + ", neither a size nor -1");
  }
  return std::max<std::int64_t>(size, 0);
}

int read_bits(ConfigReader& quantization) {
  const std::int64_t bits = quantization.integer("bits").value_or(quantization.integer("w_bit").value_or(4));
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    refuse(quantization, "has weights of " + std::to_string(bits) + " bits; those of 2, 3, 4 and 8 bits are read");
  }
  return static_cast<int>(bits);
}

PrequantizedScheme read_gptq_scheme(ConfigReader& quantization) {
  PrequantizedScheme scheme{.method = PrequantizedMethod::kGptq};
  scheme.bits = read_bits(quantization);
  scheme.group_size = read_group_size(quantization);
  const nlohmann::json* dynamic = quantization.value("dynamic");
  scheme.differs_by_layer = dynamic != nullptr && dynamic->is_object() && !dynamic->empty();
  const std::string format =
      quantization.text("checkpoint_format").value_or(quantization.text("format").value_or("gptq"));
  if (format != "gptq" && format != "gptq_v2") {
    refuse(quantization, "is GPTQ in the layout \"" + format + "\"; \"gptq\" and \"gptq_v2\" are read");
  }
  if (const auto type = quantization.text("pack_dtype"); type && *type != "int32") {
    refuse(quantization, "is GPTQ packed in " + *type + "; int32 is read");
  }
  scheme.zeros_less_one = format == "gptq";
  return scheme;
}

PrequantizedScheme read_awq_scheme(ConfigReader& quantization) {
  PrequantizedScheme scheme{.method = PrequantizedMethod::kAwq};
  scheme.bits = read_bits(quantization);
  scheme.group_size = read_group_size(quantization);
  const std::string version =
      lower(quantization.text("version").value_or(quantization.text("format").value_or("gemm")));
  if (scheme.bits != 4 || (version != "gemm" && version != "gemv")) {
    refuse(quantization, "is AWQ of " + std::to_string(scheme.bits) + " bits in the layout \"" + version +
                             "\"; 4 bits in \"gemm\" and \"gemv\" are read");
  }
  scheme.packs_inputs = version == "gemv";
  return scheme;
}

// [rows, columns] of a block; leaves the scheme as it is where the key is absent.
void read_block(ConfigReader& reader, std::string_view key, PrequantizedScheme& scheme) {
  const nlohmann::json* block = reader.value(key);
  if (block == nullptr) {
    return;
  }
  const auto is_size = [](const nlohmann::json& size) {
    return size.is_number_unsigned() && size.get<std::uint64_t>() >= 1 && size.get<std::uint64_t>() <= (1ULL << 31U);
  };
  if (!block->is_array() || block->size() != 2 || !is_size((*block)[0]) || !is_size((*block)[1])) {
    reader.fail(key, "is " + block->dump() + ", not two sizes");
  }
  scheme.block_rows = (*block)[0].get<std::int64_t>();
  scheme.block_columns = (*block)[1].get<std::int64_t>();
}

PrequantizedScheme read_fp8_scheme(ConfigReader& quantization) {
  PrequantizedScheme scheme{.method = PrequantizedMethod::kFp8, .ignores_activations = true};
  read_block(quantization, "weight_block_size", scheme);
  return scheme;
}

// One group of layers: what is not in its tensors' shapes.
void read_layer_group(ConfigReader& group, PrequantizedScheme& scheme) {
  scheme.ignores_activations = scheme.ignores_activations || group.has("input_activations");
  std::optional<ConfigReader> weights = group.object("weights");
  if (!weights) {
    return;
  }
  const std::string type = weights->text("type").value_or("int");
  const std::int64_t bits = weights->integer("num_bits").value_or(8);
  const bool readable = type == "int" ? bits == 2 || bits == 4 || bits == 8 : type == "float" && bits == 8;
  if (!readable) {
    refuse(*weights, "has weights of " + std::to_string(bits) + " bits, type " + type +
                         "; integers of 2, 4 and 8 bits and floats of 8 are read");
  }
  read_block(*weights, "block_structure", scheme);
}

PrequantizedScheme read_compressed_tensors_scheme(ConfigReader& quantization) {
  PrequantizedScheme scheme{.method = PrequantizedMethod::kCompressedTensors};
  constexpr std::array kFormats = {"pack-quantized", "int-quantized", "float-quantized", "naive-quantized",
                                   "mixed-precision"};
  const std::string format = quantization.text("format").value_or("");
  if (std::ranges::find(kFormats, format) == kFormats.end()) {
    refuse(quantization, "is compressed-tensors in the format \"" + format +
                             "\"; pack-quantized, int-quantized, float-quantized and naive-quantized are read");
  }
  if (const auto sparsity = quantization.object("sparsity_config")) {
    ConfigReader reader = *sparsity;
    if (const std::string kind = reader.text("format").value_or("dense"); kind != "dense") {
      refuse(quantization, "has sparse weights in the format \"" + kind + "\"");
    }
  }
  const nlohmann::json* transforms = quantization.value("transform_config");
  if (transforms != nullptr && !transforms->empty()) {
    refuse(quantization, "transforms activations while the model runs ('transform_config')");
  }
  if (const nlohmann::json* groups = quantization.value("config_groups"); groups != nullptr && groups->is_object()) {
    for (const auto& [name, group] : groups->items()) {
      ConfigReader reader(group, quantization.where() + ": 'config_groups': '" + name + "'");
      read_layer_group(reader, scheme);
    }
  }
  return scheme;
}

PrequantizedScheme read_bitsandbytes_scheme(ConfigReader& quantization) {
  const auto is_set = [&](const std::string& key) {
    return quantization.boolean(key).value_or(false) || quantization.boolean("_" + key).value_or(false);
  };
  const bool in_8_bits = is_set("load_in_8bit");
  if (!in_8_bits && !is_set("load_in_4bit")) {
    refuse(quantization, "is bitsandbytes with neither load_in_4bit nor load_in_8bit");
  }
  return {.method = PrequantizedMethod::kBitsAndBytes, .ignores_activations = in_8_bits};
}

}  // namespace

PrequantizedScheme read_prequantized_scheme(ConfigReader& quantization, std::string_view method) {
  if (method == "gptq") {
    return read_gptq_scheme(quantization);
  }
  if (method == "awq") {
    return read_awq_scheme(quantization);
  }
  if (method == "compressed-tensors") {
    return read_compressed_tensors_scheme(quantization);
  }
  if (method == "fp8" || method == "fbgemm_fp8") {
    return read_fp8_scheme(quantization);
  }
  if (method == "bitsandbytes") {
    return read_bitsandbytes_scheme(quantization);
  }
  refuse(quantization, "has the quant_method \"" + std::string(method) +
                           "\"; read are gptq, awq, compressed-tensors, fp8 and bitsandbytes");
}

}  // namespace diffulex_edge
