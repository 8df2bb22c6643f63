// Written programs, taken apart again with the schemas' own verifiers and readers: what the runtime will find in them.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "diffulex_edge/backend.h"
#include "diffulex_edge/xnnpack_backend.h"
#include "support/pte_file.h"
#include "support/reference_decoder.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

namespace et = executorch::schema;
namespace xnn = xnnpack::schema;

struct Format {
  const char* name;
  QuantizationConfig quantization;
  std::optional<ActivationDtype> activation;
};

using enum QuantizationDtype;

const Format kFormats[] = {
    {"fp32", {.dtype = FP32}, {}},
    {"fp16", {.dtype = FP16, .embedding_dtype = FP16, .head_dtype = FP16}, {}},
    {"fp16 throughout", {.dtype = FP16, .embedding_dtype = FP16, .head_dtype = FP16}, ActivationDtype::FP16},
    {"int8", {.dtype = INT8}, {}},
    {"int8 dynamic",
     {.dtype = INT8, .mode = QuantizationMode::DYNAMIC, .embedding_dtype = INT8, .head_dtype = INT8},
     {}},
    {"int8 dynamic, fp16",
     {.dtype = INT8, .mode = QuantizationMode::DYNAMIC, .head_dtype = INT8},
     ActivationDtype::FP16},
    {"int4", {.dtype = INT4}, {}},
    {"int4, all", {.dtype = INT4, .embedding_dtype = INT4, .head_dtype = INT4}, {}},
    {"int4 per channel", {.dtype = INT4, .group_size = 0}, {}},
};

using testing::tensor_of;

// Inputs first, then the output.
std::pair<std::vector<std::uint32_t>, std::uint32_t> ids_of(const xnn::Node& node) {
  switch (node.xnode_union_type()) {
    case xnn::NodeUnion::FullyConnected: {
      const auto* found = node.xnode_union_as_FullyConnected();
      std::vector<std::uint32_t> inputs = {found->input1_id(), found->filter_id()};
      if (found->bias_id() != 0xFFFFFFFF) {
        inputs.push_back(found->bias_id());
      }
      return {inputs, found->output_id()};
    }
    case xnn::NodeUnion::StaticReshape:
      return {{node.xnode_union_as_StaticReshape()->input_id()}, node.xnode_union_as_StaticReshape()->output_id()};
    case xnn::NodeUnion::StaticTranspose:
      return {{node.xnode_union_as_StaticTranspose()->input_id()}, node.xnode_union_as_StaticTranspose()->output_id()};
    case xnn::NodeUnion::StaticSlice:
      return {{node.xnode_union_as_StaticSlice()->input_id()}, node.xnode_union_as_StaticSlice()->output_id()};
    case xnn::NodeUnion::Concatenate2: {
      const auto* found = node.xnode_union_as_Concatenate2();
      return {{found->input1_id(), found->input2_id()}, found->output_id()};
    }
    case xnn::NodeUnion::Add:
    case xnn::NodeUnion::Subtract:
    case xnn::NodeUnion::Multiply:
    case xnn::NodeUnion::BatchMatrixMultiply: {
      const auto* found = static_cast<const xnn::Node2x1*>(node.xnode_union());
      return {{found->input1_id(), found->input2_id()}, found->output_id()};
    }
    default: {
      const auto* found = static_cast<const xnn::Node1x1*>(node.xnode_union());
      return {{found->input_id()}, found->output_id()};
    }
  }
}

class PteFile : public ::testing::Test {
 protected:
  testing::Pte write(const testing::ReferenceDecoder& reference, const QuantizationConfig& quantization,
                     std::optional<ActivationDtype> activation = {}, std::optional<std::int64_t> seq_len = 19) {
    testing::write_model(folder_ / "model", reference.config, reference.tensors());
    const Model model = load_model(
        folder_ / "model", {.seq_len = seq_len, .block_length = {}, .mask_token_id = {}, .ignored_config_keys = {}});
    BackendConfig config{.quant_config = quantization, .activation_dtype = activation, .backend_options = {}};
    result_ = XNNPACKBackend(config).export_model(model, folder_ / "x.pte", {.threads = 2});
    EXPECT_TRUE(result_.success) << result_.error_message;
    return testing::Pte(testing::read_file(folder_ / "x.pte"));
  }
  struct Written {
    std::string name;
    testing::Pte file;
    ExportResult result;
  };
  // Calls check(file) for every format of three families: with biases, with q and k norms, tied and not. They are
  // written once for all tests of a process.
  template <typename Check>
  void for_every_file(Check&& check) {
    static const std::vector<Written> files = write_every_file();
    for (const Written& written : files) {
      SCOPED_TRACE(written.name);
      result_ = written.result;
      check(written.file);
    }
  }
  std::vector<Written> write_every_file() {
    std::vector<Written> files;
    for (const Format& format : kFormats) {
      for (const char* family : {"llada", "dream", "sdar"}) {
        const testing::ReferenceDecoder reference = testing::reference_decoder(family, std::string(family) == "sdar");
        testing::Pte file = write(reference, format.quantization, format.activation);
        files.push_back({.name = std::string(format.name) + ", " + family, .file = std::move(file), .result = result_});
      }
    }
    return files;
  }
  static std::vector<float> floats(const testing::ReferenceDecoder& reference, const std::string& name) {
    const auto tensors = reference.tensors();
    const auto found = std::ranges::find(tensors, name, &testing::TestTensor::name);
    std::vector<float> values(found->bytes.size() / 4);
    std::memcpy(values.data(), found->bytes.data(), found->bytes.size());
    return values;
  }
  testing::TemporaryFolder folder_;
  ExportResult result_;
};

TEST_F(PteFile, HeaderDescribesTheFile) {
  for_every_file([](const testing::Pte& file) {
    EXPECT_EQ(file.bytes().substr(4, 8), "ET12eh00");
    EXPECT_EQ(file.load<std::uint32_t>(12), 32U);
    EXPECT_LE(file.program_size(), file.base());
    EXPECT_EQ(file.base() % 128, 0U);
    EXPECT_EQ(file.load<std::uint64_t>(32), file.bytes().size() - file.base());
    for (std::size_t i = file.program_size(); i < file.base(); ++i) {
      ASSERT_EQ(file.bytes()[i], '\0');
    }
  });
}

TEST_F(PteFile, SegmentsAreAlignedApartAndZeroBetween) {
  for_every_file([](const testing::Pte& file) {
    std::uint64_t end = 0;
    std::vector<const et::DataSegment*> segments(file.program().segments()->begin(), file.program().segments()->end());
    std::erase(segments, file.program().segments()->Get(file.program().constant_segment()->segment_index()));
    std::ranges::sort(segments, {}, [](const et::DataSegment* segment) { return segment->offset(); });
    for (const auto* segment : segments) {
      EXPECT_EQ(segment->offset() % 128, 0U);
      ASSERT_GE(segment->offset(), end);
      ASSERT_LT(segment->offset(), end + 128);
      for (std::uint64_t i = end; i < segment->offset(); ++i) {
        ASSERT_EQ(file.bytes()[file.base() + i], '\0');
      }
      EXPECT_GT(segment->size(), 0U);
      end = segment->offset() + segment->size();
    }
    EXPECT_EQ(file.base() + end, file.bytes().size());
  });
}

TEST_F(PteFile, EveryConstantHasItsData) {
  for_every_file([](const testing::Pte& file) {
    std::set<std::string> keys;
    const auto& constants = *file.graph().constant_data();
    for (std::uint32_t i = 1; i < constants.size(); ++i) {
      const std::string key = constants.Get(i)->named_key()->str();
      EXPECT_EQ(constants.Get(i)->offset(), UINT64_MAX);
      EXPECT_GT(constants.Get(i)->size(), 0U);
      EXPECT_LE(constants.Get(i)->size(), file.named(key).size()) << key;
      EXPECT_TRUE(keys.insert(key).second) << key;
    }
    std::set<std::uint32_t> used;
    for (const auto* value : *file.graph().xvalues()) {
      const auto& tensor = tensor_of(*value);
      ASSERT_LT(tensor.constant_buffer_idx(), constants.size());
      if (tensor.constant_buffer_idx() == 0) {
        continue;
      }
      used.insert(tensor.constant_buffer_idx());
      std::uint64_t elements = 1;
      for (const std::uint32_t dim : *tensor.dims()) {
        elements *= dim;
      }
      const auto type = tensor.datatype();
      const std::uint64_t bits = type == xnn::Datatype::fp32                                      ? 32
                                 : type == xnn::Datatype::fp16                                    ? 16
                                 : type == xnn::Datatype::qcint4 || type == xnn::Datatype::qbint4 ? 4
                                                                                                  : 8;
      EXPECT_EQ(constants.Get(tensor.constant_buffer_idx())->size(), elements * bits / 8);
      const auto* quantized = value->xvalue_union_as_QuantizedTensorValue();
      const auto* groups = quantized != nullptr ? quantized->quant_params_as_PerChannelGroupQuant() : nullptr;
      if (groups != nullptr) {
        used.insert(groups->scale_buffer_idx());
        EXPECT_EQ(groups->num_scales() * static_cast<std::uint64_t>(groups->group_size()), elements);
        EXPECT_EQ(constants.Get(groups->scale_buffer_idx())->size(), groups->num_scales() * 2U);
      }
    }
    EXPECT_EQ(used.size(), constants.size() - 1);  // nothing is stored for nobody
  });
}

// What the delegate does not pack is freed when it has been prepared, where ExecuTorch's weight cache is on.
TEST_F(PteFile, OnlyFiltersAndBiasesAreConstantsOfTheDelegate) {
  for_every_file([](const testing::Pte& file) {
    std::set<std::uint32_t> packed;
    for (const auto* node : *file.graph().xnodes()) {
      if (const auto* layer = node->xnode_union_as_FullyConnected()) {
        packed.insert({layer->filter_id(), layer->bias_id()});
      }
    }
    int constants = 0;
    for (std::uint32_t id = 0; id < file.graph().xvalues()->size(); ++id) {
      if (tensor_of(*file.graph().xvalues()->Get(id)).constant_buffer_idx() != 0) {
        ++constants;
        EXPECT_TRUE(packed.contains(id)) << id;
      }
    }
    EXPECT_GT(constants, 0);
  });
}

// The weight cache is one for the process and knows filters and biases only by their names.
TEST_F(PteFile, NamesOfPackedWeightsDependOnWhatIsPacked) {
  const auto keys = [](const testing::Pte& file) {
    std::map<std::string, std::string> found;
    for (const auto* named : *file.program().named_data()) {
      found.emplace(testing::Pte::label(named->key()->str()), named->key()->str());
    }
    return found;
  };
  auto reference = testing::reference_decoder("qwen3");
  const QuantizationConfig int8{.dtype = INT8};
  const auto first = keys(write(reference, int8));
  EXPECT_EQ(keys(write(reference, int8)), first);
  const std::string layer = "model.layers.0.mlp.up_proj.weight:i8";
  // The kernel that it is packed for.
  const auto dynamic = keys(write(reference, {.dtype = INT8, .mode = QuantizationMode::DYNAMIC}));
  EXPECT_NE(dynamic.at(layer), first.at(layer));
  const auto half = keys(write(reference, {.dtype = INT8, .mode = QuantizationMode::DYNAMIC}, ActivationDtype::FP16));
  EXPECT_NE(half.at(layer), dynamic.at(layer));
  // The scales: twice the weights have the same integers.
  auto tensors = reference.tensors();
  const auto doubled = std::ranges::find(tensors, "model.layers.0.mlp.up_proj.weight", &testing::TestTensor::name);
  std::vector<float> values(doubled->bytes.size() / 4);
  std::memcpy(values.data(), doubled->bytes.data(), doubled->bytes.size());
  for (float& value : values) {
    value *= 2.0F;
  }
  std::memcpy(doubled->bytes.data(), values.data(), doubled->bytes.size());
  testing::write_model(folder_ / "doubled", reference.config, tensors);
  const ExportResult result = XNNPACKBackend({.quant_config = int8, .backend_options = {}})
                                  .export_model(load_model(folder_ / "doubled"), folder_ / "y.pte");
  ASSERT_TRUE(result.success) << result.error_message;
  const auto second = keys(testing::Pte(testing::read_file(folder_ / "y.pte")));
  EXPECT_NE(second.at(layer), first.at(layer));
  EXPECT_EQ(second.at("model.layers.0.mlp.gate_proj.weight:i8"), first.at("model.layers.0.mlp.gate_proj.weight:i8"));
}

TEST_F(PteFile, DelegateMakesEveryValueOnceBeforeItsUse) {
  for_every_file([](const testing::Pte& file) {
    const auto& values = *file.graph().xvalues();
    std::set<std::uint32_t> made;
    for (std::uint32_t id = 0; id < values.size(); ++id) {
      const auto& tensor = tensor_of(*values.Get(id));
      EXPECT_EQ(tensor.id_out(), id);
      EXPECT_EQ(tensor.num_dims(), tensor.dims()->size());
      if (tensor.constant_buffer_idx() != 0 || tensor.flags() == 1) {
        made.insert(id);
      }
    }
    std::set<std::uint32_t> read;
    for (const auto* node : *file.graph().xnodes()) {
      const auto [inputs, output] = ids_of(*node);
      for (const std::uint32_t input : inputs) {
        EXPECT_TRUE(made.contains(input)) << xnn::EnumNameNodeUnion(node->xnode_union_type());
        read.insert(input);
      }
      ASSERT_LT(output, values.size());
      EXPECT_TRUE(made.insert(output).second);
    }
    for (std::uint32_t id = 0; id < values.size(); ++id) {
      EXPECT_TRUE(made.contains(id)) << id;
      EXPECT_TRUE(read.contains(id) || tensor_of(*values.Get(id)).flags() == 2) << id << " is never read";
    }
  });
}

TEST_F(PteFile, DelegateArgumentsMatchItsExternals) {
  for_every_file([](const testing::Pte& file) {
    const et::DelegateCall* call = nullptr;
    for (const auto* instruction : *file.plan().chains()->Get(0)->instructions()) {
      if (const auto* found = instruction->instr_args_as_DelegateCall()) {
        EXPECT_EQ(call, nullptr) << "a second delegate call";
        call = found;
      }
    }
    ASSERT_NE(call, nullptr);
    ASSERT_EQ(call->args()->size(), file.graph().num_externs());
    std::set<std::uint32_t> seen;
    for (const auto* value : *file.graph().xvalues()) {
      const auto& tensor = tensor_of(*value);
      if (tensor.flags() == 0) {
        EXPECT_EQ(tensor.external_id(), 0xFFFFFFFFU);
        continue;
      }
      ASSERT_LT(tensor.external_id(), call->args()->size());
      EXPECT_TRUE(seen.insert(tensor.external_id()).second);
      const std::int32_t index = call->args()->Get(tensor.external_id());
      const auto* argument = file.plan().values()->Get(static_cast<std::uint32_t>(index))->val_as_Tensor();
      ASSERT_NE(argument, nullptr);
      EXPECT_EQ(std::vector<std::int64_t>(argument->sizes()->begin(), argument->sizes()->end()),
                std::vector<std::int64_t>(tensor.dims()->begin(), tensor.dims()->end()));
      EXPECT_EQ(argument->scalar_type(),
                tensor.datatype() == xnn::Datatype::fp16 ? et::ScalarType::HALF : et::ScalarType::FLOAT);
    }
    EXPECT_EQ(seen.size(), call->args()->size());
    const std::set<std::int32_t> arguments(call->args()->begin(), call->args()->end());
    EXPECT_TRUE(arguments.contains(file.plan().outputs()->Get(0)));
  });
}

TEST_F(PteFile, MethodTakesIdsAndGivesFloatLogits) {
  for_every_file([](const testing::Pte& file) {
    const auto tensor = [&](std::int32_t index) {
      return file.plan().values()->Get(static_cast<std::uint32_t>(index))->val_as_Tensor();
    };
    ASSERT_EQ(file.plan().inputs()->size(), 1U);
    ASSERT_EQ(file.plan().outputs()->size(), 1U);
    const auto* ids = tensor(file.plan().inputs()->Get(0));
    const auto* logits = tensor(file.plan().outputs()->Get(0));
    EXPECT_EQ(ids->scalar_type(), et::ScalarType::LONG);
    EXPECT_EQ(std::vector<int>(ids->sizes()->begin(), ids->sizes()->end()), (std::vector<int>{1, 19}));
    EXPECT_EQ(logits->scalar_type(), et::ScalarType::FLOAT);
    EXPECT_EQ(std::vector<int>(logits->sizes()->begin(), logits->sizes()->end()), (std::vector<int>{1, 19, 37}));
    EXPECT_EQ(ids->shape_dynamism(), et::TensorShapeDynamism::DYNAMIC_BOUND);
    EXPECT_EQ(logits->shape_dynamism(), et::TensorShapeDynamism::DYNAMIC_BOUND);
  });
}

TEST_F(PteFile, ArenaTensorsDoNotOverlap) {
  for_every_file([](const testing::Pte& file) {
    std::map<std::uint64_t, std::uint64_t> ranges;
    for (const auto* value : *file.plan().values()) {
      const auto* tensor = value->val_as_Tensor();
      if (tensor == nullptr || tensor->allocation_info() == nullptr) {
        continue;
      }
      std::uint64_t bytes = tensor->scalar_type() == et::ScalarType::LONG   ? 8
                            : tensor->scalar_type() == et::ScalarType::HALF ? 2
                                                                            : 4;
      for (const std::int32_t size : *tensor->sizes()) {
        bytes *= static_cast<std::uint64_t>(size);
      }
      const std::uint64_t offset = tensor->allocation_info()->memory_offset_low();
      EXPECT_EQ(offset % 16, 0U);
      EXPECT_TRUE(bytes == 0 || ranges.emplace(offset, offset + bytes).second);
    }
    std::uint64_t end = 0;
    for (const auto& [begin, next] : ranges) {
      EXPECT_GE(begin, end);
      end = next;
    }
    EXPECT_LE(end, static_cast<std::uint64_t>(file.plan().non_const_buffer_sizes()->Get(1)));
  });
}

TEST_F(PteFile, ConstantTensorsLieInTheConstantSegment) {
  for_every_file([](const testing::Pte& file) {
    const auto& offsets = *file.program().constant_segment()->offsets();
    const std::string whole = file.segment(file.program().constant_segment()->segment_index());
    std::set<std::uint64_t> of_the_whole;
    std::set<std::uint32_t> used;
    for (const auto* value : *file.plan().values()) {
      const auto* tensor = value->val_as_Tensor();
      if (tensor == nullptr || tensor->data_buffer_idx() == 0) {
        continue;
      }
      used.insert(tensor->data_buffer_idx());
      ASSERT_LT(tensor->data_buffer_idx(), offsets.size());
      std::uint64_t bytes = tensor->scalar_type() == et::ScalarType::FLOAT  ? 4
                            : tensor->scalar_type() == et::ScalarType::HALF ? 2
                                                                            : 1;
      for (const std::int32_t size : *tensor->sizes()) {
        bytes *= static_cast<std::uint64_t>(size);
      }
      EXPECT_LE(offsets.Get(tensor->data_buffer_idx()) + bytes, whole.size());
      EXPECT_EQ(offsets.Get(tensor->data_buffer_idx()) % 16, 0U);
      of_the_whole.insert(offsets.Get(tensor->data_buffer_idx()));
    }
    EXPECT_EQ(used.size(), offsets.size() - 1);
    // The runtime keeps the constant segment in memory: it holds nothing that the delegate packs, but for tied tables.
    const auto& segments = *file.program().segments();
    for (const auto* named : *file.program().named_data()) {
      const auto* segment = segments.Get(named->segment_index());
      EXPECT_TRUE(segment->offset() >= whole.size() || of_the_whole.contains(segment->offset())) << named->key()->str();
    }
  });
}

// --- The weights' own bytes.

TEST_F(PteFile, FloatWeightsAreTheCheckpointsBytes) {
  const auto reference = testing::reference_decoder("dream");
  const testing::Pte file = write(reference, {.dtype = FP32});
  for (const testing::TestTensor& tensor : reference.tensors()) {
    EXPECT_EQ(file.stored(tensor.name + ":f32").substr(0, tensor.bytes.size()), tensor.bytes) << tensor.name;
  }
}

TEST_F(PteFile, Int8WeightsAndTheirScalesFollowTheStoredFormat) {
  const auto reference = testing::reference_decoder("llada");
  for (const QuantizationMode mode : {QuantizationMode::WEIGHT_ONLY, QuantizationMode::DYNAMIC}) {
    const testing::Pte file = write(reference, {.dtype = INT8, .mode = mode});
    int found = 0;
    for (const auto* value : *file.graph().xvalues()) {
      const auto* quantized = value->xvalue_union_as_QuantizedTensorValue();
      if (quantized == nullptr || quantized->tensor_value()->datatype() != xnn::Datatype::qcint8) {
        continue;
      }
      ++found;
      const auto* constant = file.graph().constant_data()->Get(quantized->tensor_value()->constant_buffer_idx());
      const std::string key = constant->named_key()->str();
      const std::string label = testing::Pte::label(key);
      const std::vector<float> weights = floats(reference, label.substr(0, label.size() - 3));
      const std::string stored = file.named(key);
      const auto* scales = quantized->quant_params_as_PerChannelQuant()->scale();
      const std::size_t columns = weights.size() / scales->size();
      for (std::uint32_t row = 0; row < scales->size(); ++row) {
        float largest = 0.0F;
        for (std::size_t i = 0; i < columns; ++i) {
          largest = std::max(largest, std::fabs(weights[row * columns + i]));
        }
        ASSERT_EQ(scales->Get(row), largest / 127.0F) << key;
        for (std::size_t i = 0; i < columns; ++i) {
          ASSERT_EQ(static_cast<float>(static_cast<std::int8_t>(stored[row * columns + i])),
                    std::nearbyint(weights[row * columns + i] / scales->Get(row)));
        }
      }
    }
    EXPECT_EQ(found, 2 * 7);
  }
}

TEST_F(PteFile, Int4WeightsDecodeNearTheirFloats) {
  const auto reference = testing::reference_decoder("qwen3");
  const testing::Pte file = write(reference, {.dtype = INT4, .group_size = 32, .head_dtype = INT4});
  int found = 0;
  for (const auto* value : *file.graph().xvalues()) {
    const auto* quantized = value->xvalue_union_as_QuantizedTensorValue();
    if (quantized == nullptr || quantized->tensor_value()->datatype() != xnn::Datatype::qbint4) {
      continue;
    }
    ++found;
    const auto* constant = file.graph().constant_data()->Get(quantized->tensor_value()->constant_buffer_idx());
    const std::string key = constant->named_key()->str();
    const std::string label = testing::Pte::label(key);
    const std::vector<float> weights = floats(reference, label.substr(0, label.size() - 3));
    const std::string stored = file.named(key);
    const std::string scales = file.stored(label + ":scale");
    for (std::size_t i = 0; i < weights.size(); ++i) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, scales.data() + i / 32 * 2, 2);
      const float scale = std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U);
      const int q = (static_cast<unsigned char>(stored[i / 2]) >> (i % 2 * 4) & 15) - 8;  // even elements low
      // Half a step; a clipped end may lose up to 2^-8 of 8 steps more to the rounding of the scale.
      ASSERT_LE(std::fabs(weights[i] - static_cast<float>(q) * scale), scale * 0.54F) << key << " at " << i;
    }
  }
  EXPECT_EQ(found, 2 * 7 + 1);
}

TEST_F(PteFile, TiedWeightsOfOneFormatAreStoredOnce) {
  for (const QuantizationDtype dtype : {FP32, FP16, INT8}) {
    const auto reference = testing::reference_decoder("fast_dllm_v2", true);
    const testing::Pte file = write(reference, {.dtype = INT8, .embedding_dtype = dtype, .head_dtype = dtype});
    int stored = 0;
    for (const auto* named : *file.program().named_data()) {
      stored += named->key()->str().starts_with("model.embed_tokens.weight") ? 1 : 0;
    }
    EXPECT_EQ(stored, 1) << to_string(dtype);
    std::int64_t listed = 0;
    for (const StoredLayer& layer : result_.metadata.layers) {
      listed += layer.plan.tensor == "model.embed_tokens.weight" && layer.stored_bytes > 37 * 96 / 2 ? 1 : 0;
    }
    EXPECT_EQ(listed, 1) << to_string(dtype);
  }
}

TEST_F(PteFile, EqualTensorsOfDifferentNamesAreStoredOnce) {
  const auto reference = testing::reference_decoder("qwen3");
  auto tensors = reference.tensors();
  const auto find = [&](const std::string& name) {
    return std::ranges::find(tensors, name, &testing::TestTensor::name);
  };
  find("model.layers.1.mlp.up_proj.weight")->bytes = find("model.layers.0.mlp.up_proj.weight")->bytes;
  find("model.layers.1.input_layernorm.weight")->bytes = find("model.layers.0.input_layernorm.weight")->bytes;
  const auto size = [&](const std::vector<testing::TestTensor>& all) {
    testing::write_model(folder_ / "model", reference.config, all);
    const ExportResult result = XNNPACKBackend().export_model(load_model(folder_ / "model"), folder_ / "x.pte");
    EXPECT_TRUE(result.success) << result.error_message;
    return result.metadata.file_bytes;
  };
  const std::int64_t saved = size(reference.tensors()) - size(tensors);
  EXPECT_GE(saved, 4 * (160 * 96 + 96));
}

TEST_F(PteFile, StoredBytesOfTheLayersAreInTheFile) {
  for_every_file([&](const testing::Pte& file) {
    std::int64_t stored = 0;
    for (const StoredLayer& layer : result_.metadata.layers) {
      EXPECT_GE(layer.stored_bytes, 0);
      stored += layer.stored_bytes;
    }
    EXPECT_LE(stored, static_cast<std::int64_t>(file.bytes().size()));
    EXPECT_GE(stored, static_cast<std::int64_t>(file.bytes().size()) * 6 / 10);
    EXPECT_DOUBLE_EQ(result_.metadata.quantized_memory_mb, static_cast<double>(stored) / 1e6);
  });
}

TEST_F(PteFile, DryRunsPredictEveryFileToTheByte) {
  for (const Format& format : kFormats) {
    for (const char* family : {"llada", "dream", "sdar", "fast_dllm_v2", "llama", "qwen2", "qwen3"}) {
      const auto reference = testing::reference_decoder(family);
      testing::write_model(folder_ / "model", reference.config, reference.tensors());
      const Model model = load_model(folder_ / "model");
      BackendConfig config{
          .quant_config = format.quantization, .activation_dtype = format.activation, .backend_options = {}};
      XNNPACKBackend backend(config);
      const ExportResult predicted = backend.dry_run(model);
      EXPECT_FALSE(std::filesystem::exists(folder_ / "x.pte"));
      const ExportResult written = backend.export_model(model, folder_ / "x.pte");
      ASSERT_TRUE(written.success) << written.error_message;
      EXPECT_EQ(predicted.metadata.file_bytes, static_cast<std::int64_t>(std::filesystem::file_size(folder_ / "x.pte")))
          << format.name << ", " << family;
      EXPECT_EQ(predicted.metadata.quantized_memory_mb, written.metadata.quantized_memory_mb);
      EXPECT_EQ(predicted.metadata.layers.size(), written.metadata.layers.size());
      EXPECT_EQ(predicted.metadata.warnings, written.metadata.warnings);
      std::filesystem::remove(folder_ / "x.pte");
    }
  }
}

TEST_F(PteFile, ABadWeightLeavesNoFileAndIsNamed) {
  const auto reference = testing::reference_decoder("qwen3");
  auto tensors = reference.tensors();
  const float nan = std::nanf("");
  const auto target = std::ranges::find(tensors, "model.layers.1.mlp.up_proj.weight", &testing::TestTensor::name);
  std::memcpy(target->bytes.data() + 4 * (96 * 7 + 5), &nan, 4);
  testing::write_model(folder_ / "model", reference.config, tensors);
  const Model model = load_model(folder_ / "model");
  for (const Format& format : kFormats) {
    BackendConfig config{
        .quant_config = format.quantization, .activation_dtype = format.activation, .backend_options = {}};
    const ExportResult result = XNNPACKBackend(config).export_model(model, folder_ / "x.pte", {.threads = 2});
    EXPECT_FALSE(result.success);
    EXPECT_EQ(result.error_code, ErrorCode::kBadFile);
    EXPECT_NE(result.error_message.find("model.layers.1.mlp.up_proj.weight"), std::string::npos);
    EXPECT_NE(result.error_message.find("[7, 5]"), std::string::npos) << result.error_message;
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), std::filesystem::directory_iterator()),
              1);
  }
}

TEST_F(PteFile, AStoppedExportLeavesNoFile) {
  const auto reference = testing::reference_decoder("qwen3");
  testing::write_model(folder_ / "model", reference.config, reference.tensors());
  std::stop_source source;
  RunControl control{.threads = 2, .stop = source.get_token()};
  control.on_progress = [&](const Progress&) { source.request_stop(); };
  const ExportResult result = XNNPACKBackend().export_model(load_model(folder_ / "model"), folder_ / "x.pte", control);
  EXPECT_EQ(result.error_code, ErrorCode::kCancelled);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), std::filesystem::directory_iterator()),
            1);
}

TEST_F(PteFile, PassesOnTheWarningsOfModelAndPlan) {
  testing::ReferenceDecoder reference = testing::reference_decoder("qwen3");
  reference.config["max_position_embeddings"] = 8;
  write(reference, {.dtype = INT8, .exclude_layers = {"nothing-is-called-so"}});
  ASSERT_EQ(result_.metadata.warnings.size(), 2U);
  EXPECT_NE(result_.metadata.warnings[0].find("8 positions"), std::string::npos);
  EXPECT_NE(result_.metadata.warnings[1].find("nothing-is-called-so"), std::string::npos);
}

TEST_F(PteFile, KernelsAreTheOnesThatTheFormatsPromise) {
  const std::map<std::string, std::string> kKernels = {
      {"fp32", "f32 x f32"},  {"fp16", "f32 x f16"},          {"fp16 throughout", "f16 x f16"},
      {"int8", "f32 x qc8w"}, {"int8 dynamic", "qd8 x qc8w"}, {"int8 dynamic, fp16", "qd8 x qc8w"},
      {"int4", "qd8 x qb4w"}, {"int4, all", "qd8 x qb4w"},    {"int4 per channel", "f32 x qc4w"}};
  for (const Format& format : kFormats) {
    write(testing::reference_decoder("qwen3"), format.quantization, format.activation);
    for (const StoredLayer& layer : result_.metadata.layers) {
      if (layer.plan.layer == "layers.0.q_proj") {
        EXPECT_EQ(layer.kernel, kKernels.at(format.name));
      }
    }
    const bool mentions = std::ranges::any_of(result_.metadata.warnings, [](const std::string& warning) {
      return warning.find("qd8 x qb4w") != std::string::npos || warning.find("expands them") != std::string::npos;
    });
    const std::string name = format.name;
    EXPECT_EQ(mentions, name == "fp16" || name == "int4" || name == "int4, all") << name;
  }
}

}  // namespace
}  // namespace diffulex_edge
