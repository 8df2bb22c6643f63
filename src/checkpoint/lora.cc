#include "checkpoint/lora.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/prequantized/packed_values.h"
#include "checkpoint/row_decoder.h"
#include "core/kernels/matrix_kernels.h"
#include "core/links.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

constexpr std::string_view kPeftPrefix = "base_model.model.";

// The factors of one product. Values are left[row, k] * right[k, column], summed over k.
struct Factors {
  TensorView a;
  TensorView b;
  bool is_embedding = false;  // a [rank, rows], b [columns, rank]; else a [rank, columns], b [rows, rank]

  std::int64_t rank() const { return a.shape[0]; }
};

std::vector<float> floats_of(const TensorView& view, std::int64_t begin, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    values[static_cast<std::size_t>(i)] = float_at(view, begin + i);
  }
  return values;
}

class LoraWeight final : public RowDecoder {
 public:
  // `magnitude` may be absent.
  LoraWeight(const TensorView& base, Factors factors, float scale, std::optional<TensorView> magnitude)
      : RowDecoder(base.name, base.shape, what_of(base, factors, magnitude.has_value()),
                   parts_of(base, factors, magnitude)),
        base_(base),
        factors_(std::move(factors)),
        scale_(scale),
        magnitude_(std::move(magnitude)) {}

  bool is_quantized() const override { return base_.decoder != nullptr && base_.decoder->is_quantized(); }

  void decode(std::int64_t row_begin, std::int64_t count, std::span<float> target) const override {
    if (base_.decoder != nullptr) {
      base_.decoder->decode(row_begin, count, target);
    } else {
      std::ranges::copy(floats_of(base_, row_begin * columns(), count * columns()), target.begin());
    }
    const std::int64_t rank = factors_.rank();
    const std::vector<float> left = left_factor(row_begin, count);
    const std::vector<float> right = right_factor();
    kernels::multiply_matrices({.m = count, .n = columns(), .k = rank}, scale_, {.data = left.data(), .stride = rank},
                               {.data = right.data(), .stride = columns()}, 1.0F, target.data(), columns());
    if (magnitude_) {
      for (std::int64_t i = 0; i < count; ++i) {
        const auto row = target.subspan(static_cast<std::size_t>(i * columns()), static_cast<std::size_t>(columns()));
        set_magnitude(row, float_at(*magnitude_, row_begin + i));
      }
    }
  }

 private:
  static std::string what_of(const TensorView& base, const Factors& factors, bool has_magnitude) {
    return (base.decoder != nullptr ? base.decoder->what() : std::string(to_string(base.dtype))) +
           (has_magnitude ? " with DoRA of rank " : " with LoRA of rank ") + std::to_string(factors.rank());
  }

  static std::vector<Part> parts_of(const TensorView& base, const Factors& factors,
                                    const std::optional<TensorView>& magnitude) {
    std::vector<Part> parts;
    if (base.decoder != nullptr) {
      parts.assign(base.decoder->parts().begin(), base.decoder->parts().end());
    } else {
      parts.push_back({.view = base, .layout = RowLayout::kConsecutive});
    }
    parts.push_back({.view = factors.a, .layout = RowLayout::kTable});
    parts.push_back({.view = factors.b, .layout = RowLayout::kTable});
    if (magnitude) {
      parts.push_back({.view = *magnitude, .layout = RowLayout::kTable});
    }
    return parts;
  }

  static void set_magnitude(std::span<float> row, float magnitude) {
    double squares = 0.0;
    for (const float value : row) {
      squares += static_cast<double>(value) * value;
    }
    const auto factor = static_cast<float>(magnitude / std::sqrt(squares));
    for (float& value : row) {
      value *= factor;
    }
  }

  // [count, rank]
  std::vector<float> left_factor(std::int64_t row_begin, std::int64_t count) const {
    const std::int64_t rank = factors_.rank();
    if (!factors_.is_embedding) {
      return floats_of(factors_.b, row_begin * rank, count * rank);
    }
    std::vector<float> values(static_cast<std::size_t>(count * rank));
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t k = 0; k < rank; ++k) {
        values[static_cast<std::size_t>(i * rank + k)] = float_at(factors_.a, k * rows() + row_begin + i);
      }
    }
    return values;
  }

  // [rank, columns]
  std::vector<float> right_factor() const {
    if (!factors_.is_embedding) {
      return floats_of(factors_.a, 0, factors_.rank() * columns());
    }
    std::vector<float> values(static_cast<std::size_t>(factors_.rank() * columns()));
    for (std::int64_t k = 0; k < factors_.rank(); ++k) {
      for (std::int64_t j = 0; j < columns(); ++j) {
        values[static_cast<std::size_t>(k * columns() + j)] = float_at(factors_.b, j * factors_.rank() + k);
      }
    }
    return values;
  }

  TensorView base_;
  Factors factors_;
  float scale_;
  std::optional<TensorView> magnitude_;
};

class Merge {
 public:
  Merge(Checkpoint& base, const Checkpoint& adapter, const LoraScheme& scheme, bool is_tied)
      : base_(base), adapter_(adapter), scheme_(scheme), is_tied_(is_tied) {}

  MergedLora run() {
    for (const auto& [name, view] : adapter_.tensors()) {
      if (name.find(".lora_") == std::string::npos) {
        replace_whole(view);
      }
    }
    for (const std::string& module : prefixes_of(adapter_, ".lora_A.weight")) {
      add_product(module, {.a = factor(module + ".lora_A.weight"), .b = factor(module + ".lora_B.weight")});
    }
    for (const std::string& module : prefixes_of(adapter_, ".lora_embedding_A")) {
      add_product(
          module,
          {.a = factor(module + ".lora_embedding_A"), .b = factor(module + ".lora_embedding_B"), .is_embedding = true});
    }
    for (const auto& [name, view] : adapter_.tensors()) {
      if (!used_.contains(name)) {
        refuse_other_kind(view);
      }
    }
    return result_;
  }

 private:
  TensorView factor(const std::string& name) {
    const TensorView& view = adapter_.at(name);
    if (!is_float(view.dtype) || view.shape.size() != 2 || view.bytes.empty()) {
      fail_tensor(view, "is " + std::string(to_string(view.dtype)) + " " + shape_string(view) +
                            ", not a matrix of floating-point numbers");
    }
    used_.insert(name);
    return view;
  }

  // "base_model.model.model.layers.0.mlp.up_proj" is "model.layers.0.mlp.up_proj" in the model.
  static std::string in_model(const TensorView& view, const std::string& name) {
    if (!name.starts_with(kPeftPrefix)) {
      fail_tensor(view, "does not begin with \"" + std::string(kPeftPrefix) + "\", as peft's tensors do");
    }
    return name.substr(kPeftPrefix.size());
  }

  // The base's tensor; checkpoints may have been written with "model." before their names or without.
  const TensorView& target(const TensorView& view, const std::string& name) const {
    constexpr std::string_view kModel = "model.";
    const TensorView* found = base_.find(name);
    if (found == nullptr && name.starts_with(kModel)) {
      found = base_.find(name.substr(kModel.size()));
    }
    if (found == nullptr) {
      found = base_.find(std::string(kModel) + name);
    }
    if (found == nullptr) {
      fail_tensor(view, "changes '" + name + "', which the model " + base_.path().string() + " does not have");
    }
    if (found->decoder == nullptr && !is_float(found->dtype)) {
      throw Error(ErrorCode::kUnsupported, found->where(), "is quantized, and an adapter would change its integers",
                  "give the unquantized model that the adapter was trained on");
    }
    return *found;
  }

  void refuse_tied(const TensorView& view, const std::string& name) const {
    const bool is_table = name.find("embed_tokens") != std::string::npos || name.find("wte") != std::string::npos ||
                          name.find("word_embeddings") != std::string::npos ||
                          name.find("lm_head") != std::string::npos || name.find("ff_out") != std::string::npos;
    if (is_tied_ && is_table && name.find(".blocks.") == std::string::npos) {
      throw Error(ErrorCode::kUnsupported, view.where(),
                  "changes one of embedding and head, which are one table in this model",
                  "merge it with peft into a model with tie_word_embeddings false");
    }
  }

  double alpha_of(const std::string& module) const {
    for (const auto& [ending, alpha] : scheme_.alpha_of_modules) {
      if (module == ending || module.ends_with("." + ending)) {
        return alpha;
      }
    }
    return scheme_.alpha;
  }

  std::optional<TensorView> magnitude_of(const std::string& module, std::int64_t rows) {
    for (const std::string& name :
         std::vector<std::string>{module + ".lora_magnitude_vector", module + ".lora_magnitude_vector.weight"}) {
      if (const TensorView* view = adapter_.find(name)) {
        if (!is_float(view->dtype) || view->elements() != rows) {
          fail_tensor(*view, "has the shape " + shape_string(*view) + ", not one number for each of " +
                                 std::to_string(rows) + " rows");
        }
        used_.insert(name);
        return *view;
      }
    }
    return std::nullopt;
  }

  void add_product(const std::string& stored_module, const Factors& factors) {
    const std::string module = in_model(factors.a, stored_module);
    refuse_tied(factors.a, module);
    const TensorView weight = target(factors.a, module + ".weight");
    if (weight.shape.size() != 2) {
      fail_tensor(factors.a, "changes '" + weight.name + "' " + shape_string(weight) + ", which is no matrix");
    }
    const std::int64_t rank = factors.rank();
    require_shape(factors.a, {rank, factors.is_embedding ? weight.shape[0] : weight.shape[1]});
    require_shape(factors.b, {factors.is_embedding ? weight.shape[1] : weight.shape[0], rank});
    std::optional<TensorView> magnitude;
    if (!factors.is_embedding) {
      magnitude = magnitude_of(stored_module, weight.shape[0]);
    }
    const auto divisor = static_cast<double>(rank);
    const double scale = alpha_of(module) / (scheme_.is_rank_stabilized ? std::sqrt(divisor) : divisor);
    base_.replace(std::vector<std::string>{weight.name},
                  std::make_unique<const LoraWeight>(weight, factors, static_cast<float>(scale), magnitude));
    result_.lowest_rank = result_.weights == 0 ? rank : std::min(result_.lowest_rank, rank);
    result_.highest_rank = std::max(result_.highest_rank, rank);
    ++result_.weights;
  }

  // A module that was trained whole, or a bias. peft also stores embeddings that it added a product to.
  void replace_whole(const TensorView& view) {
    std::string name = in_model(view, view.name);
    constexpr std::string_view kWrapped = ".base_layer.";
    if (const std::size_t at = name.find(kWrapped); at != std::string::npos) {
      name.replace(at, kWrapped.size(), ".");
    }
    if (name.find("trainable_tokens") != std::string::npos) {
      refuse_other_kind(view);
    }
    refuse_tied(view, name);
    const TensorView replaced = target(view, name);
    if (!is_float(view.dtype)) {
      fail_tensor(view, "is of type " + std::string(to_string(view.dtype)) + ", not floating-point");
    }
    require_shape(view, replaced.shape);
    base_.put(replaced.name, view);
    used_.insert(view.name);
    ++result_.replaced;
  }

  [[noreturn]] static void refuse_other_kind(const TensorView& view) {
    constexpr std::string_view kSecond = ".lora_B.weight";
    if (view.name.ends_with(kSecond)) {
      fail_tensor(view, "has no lora_A.weight beside it");
    }
    throw Error(ErrorCode::kUnsupported, view.where(), "is of a kind of adapter that is not read here", kMergeFirst);
  }

  Checkpoint& base_;
  const Checkpoint& adapter_;
  const LoraScheme& scheme_;
  bool is_tied_;
  std::set<std::string, std::less<>> used_;
  MergedLora result_;
};

}  // namespace

std::filesystem::path find_adapter_weights(const std::filesystem::path& folder) {
  const std::filesystem::path weights = folder / "adapter_model.safetensors";
  if (is_present(weights)) {
    return weights;
  }
  if (is_present(folder / "adapter_model.bin")) {
    throw Error(ErrorCode::kBadFile, folder.string(), "has no adapter_model.safetensors, but adapter_model.bin",
                "pickled weights are programs and not read: with peft, "
                "PeftModel.from_pretrained(base, FOLDER).save_pretrained(NEW_FOLDER) writes safetensors");
  }
  throw Error(ErrorCode::kBadFile, folder.string(), "has no adapter_model.safetensors", "download it again");
}

std::string describe(const MergedLora& merged) {
  const std::string rank = merged.lowest_rank == merged.highest_rank ? "rank " + std::to_string(merged.lowest_rank)
                                                                     : "ranks " + std::to_string(merged.lowest_rank) +
                                                                           " to " + std::to_string(merged.highest_rank);
  std::string text;
  if (merged.weights > 0) {
    text = std::to_string(merged.weights) + (merged.weights == 1 ? " weight has" : " weights have") + " a product of " +
           rank + " added";
  }
  if (merged.replaced > 0) {
    text += (text.empty() ? "" : ", ") + std::to_string(merged.replaced) +
            (merged.replaced == 1 ? " tensor is replaced" : " tensors are replaced");
  }
  return text;
}

MergedLora merge_lora(Checkpoint& base, Checkpoint adapter, const LoraScheme& scheme, bool is_tied) {
  const MergedLora merged = Merge(base, adapter, scheme, is_tied).run();
  if (merged.weights + merged.replaced == 0) {
    throw Error(ErrorCode::kBadFile, adapter.path().string(), "holds no tensor", "download it again");
  }
  base.keep(std::move(adapter));
  return merged;
}

}  // namespace diffulex_edge
