// What every uniform format costs a model.

#include <optional>
#include <utility>

#include "diffulex_edge/error.h"
#include "diffulex_edge/evaluation.h"
#include "quant/arithmetic.h"
#include "quant/layer_formats.h"

namespace diffulex_edge {
namespace {

struct Candidate {
  std::string name;
  QuantizationConfig config;
};

std::string title(const LayerFormat& format) {
  std::string name(to_string(format.dtype));
  if (!format_row(format.dtype).takes_groups) {
    return name;
  }
  return name + (format.group_size == 0 ? ", per channel" : ", groups of " + std::to_string(format.group_size));
}

std::vector<Candidate> candidates(const ComparisonBase& base) {
  QuantizationConfig nearest = base.config;
  nearest.method = RoundingMethod::RTN;
  nearest.layer_formats.clear();
  std::vector<Candidate> all;
  for (const LayerFormat& format : all_layer_formats()) {
    const FormatRow& row = format_row(format.dtype);
    // Palettes where the target has them, which the base config shows by having one.
    if (format.dtype == QuantizationDtype::FP32 || (row.has_codebook() && format.dtype != base.config.dtype)) {
      continue;
    }
    all.push_back({.name = title(format), .config = nearest});
    QuantizationConfig& config = all.back().config;
    config.dtype = format.dtype;
    if (!row.takes_groups) {
      continue;  // the group size stays: it is that of the embedding and the head
    }
    config.group_size = format.group_size;
    config.strict_group_size = true;
    if (config.mode == QuantizationMode::STATIC && !has_static_kernel(format, base.target)) {
      config.mode = QuantizationMode::DYNAMIC;
    }
  }
  return all;
}

// What makes a format impossible for a model, rather than the work.
bool is_about_format(const Error& error) {
  return error.code() == ErrorCode::kInvalidArgument || error.code() == ErrorCode::kUnsupported ||
         error.code() == ErrorCode::kBadFile;
}

class FormatComparer {
 public:
  FormatComparer(const Model& model, const ComparisonBase& base, const std::vector<EvaluationSet>& sets,
                 const RunControl& control)
      : model_(model), base_(base), sets_(sets), control_(control) {}

  FormatComparison run() {
    std::vector<Planned> together;
    for (Candidate& candidate : candidates(base_)) {
      std::optional<Planned> planned = plan(std::move(candidate));
      if (!planned) {
        continue;
      }
      // Weights beyond FP16 show only when they are read.
      if (planned->config.dtype == QuantizationDtype::FP16) {
        evaluate_alone(*planned);
      } else {
        together.push_back(std::move(*planned));
      }
    }
    evaluate_together(together);
    return std::move(comparison_);
  }

 private:
  struct Planned {
    std::string name;
    QuantizationConfig config;
    QuantizationPlan plan;
  };

  std::optional<Planned> plan(Candidate candidate) {
    try {
      QuantizationResult result = quantize_model(model_, candidate.config, base_.findings, base_.target);
      comparison_.original_bytes = 4 * result.parameters;
      QuantizationPlan plan = base_.float_activations ? with_float_activations(std::move(result.plan)) : result.plan;
      return Planned{std::move(candidate.name), std::move(candidate.config), std::move(plan)};
    } catch (const Error& error) {
      leave_out(candidate.name, error);
      return std::nullopt;
    }
  }

  void leave_out(const std::string& name, const Error& error) {
    if (!is_about_format(error)) {
      throw;
    }
    comparison_.left_out.push_back({.name = name, .reason = error.what()});
  }

  void evaluate_alone(const Planned& planned) {
    try {
      evaluate_together(std::span(&planned, 1));
    } catch (const Error& error) {
      leave_out(planned.name, error);
    }
  }

  void evaluate_together(std::span<const Planned> formats) {
    std::vector<EvaluatedModel> subjects;
    for (const Planned& format : formats) {
      subjects.push_back({.model = &model_, .plan = &format.plan});
    }
    std::vector<EvaluationResult> results = evaluate_each(subjects, EvaluatedModel{.model = &model_}, sets_, control_);
    for (std::size_t i = 0; i < results.size(); ++i) {
      comparison_.formats.push_back({.name = formats[i].name,
                                     .config = formats[i].config,
                                     .planned_bytes = planned_bytes(formats[i].plan),
                                     .sets = std::move(results[i].sets)});
    }
  }

  const Model& model_;
  const ComparisonBase& base_;
  const std::vector<EvaluationSet>& sets_;
  const RunControl& control_;
  FormatComparison comparison_;
};

}  // namespace

FormatComparison compare_formats(const Model& model, const ComparisonBase& base, const std::vector<EvaluationSet>& sets,
                                 const RunControl& control) {
  if (model.stored_quantization) {
    throw Error(ErrorCode::kInvalidArgument, model.path.string(), "is quantized already: its formats are final",
                "compare the formats of the unquantized checkpoint");
  }
  return FormatComparer(model, base, sets, control).run();
}

}  // namespace diffulex_edge
