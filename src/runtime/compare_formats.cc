// What every uniform format costs a model.

#include <optional>
#include <utility>

#include "diffulex_edge/error.h"
#include "diffulex_edge/evaluation.h"

namespace diffulex_edge {
namespace {

struct Candidate {
  std::string name;
  QuantizationConfig config;
};

std::vector<Candidate> candidates(const QuantizationConfig& base) {
  QuantizationConfig nearest = base;
  nearest.method = RoundingMethod::RTN;
  nearest.layer_formats.clear();
  std::vector<Candidate> all;
  // The group size stays where it is that of the embedding and the head alone.
  for (const QuantizationDtype dtype : {QuantizationDtype::FP16, QuantizationDtype::INT8}) {
    all.push_back({.name = std::string(to_string(dtype)), .config = nearest});
    all.back().config.dtype = dtype;
    all.back().config.static_everywhere = base.static_everywhere && dtype != QuantizationDtype::FP16;
  }
  for (const std::int64_t size : {32, 64, 128, 256, 0}) {
    all.push_back(
        {.name = size == 0 ? "int4, per channel" : "int4, groups of " + std::to_string(size), .config = nearest});
    QuantizationConfig& config = all.back().config;
    config.dtype = QuantizationDtype::INT4;
    config.group_size = size;
    config.strict_group_size = true;
    if (size != 0 && config.mode == QuantizationMode::STATIC && !config.static_everywhere) {
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
  FormatComparer(const Model& model, const std::vector<EvaluationSet>& sets, ActivationArithmetic activations,
                 const RunControl& control)
      : model_(model), sets_(sets), activations_(activations), control_(control) {}

  FormatComparison run(const QuantizationConfig& base) {
    std::vector<Planned> together;
    for (Candidate& candidate : candidates(base)) {
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
      QuantizationResult result = quantize_model(model_, candidate.config);
      comparison_.original_bytes = 4 * result.parameters;
      return Planned{std::move(candidate.name), std::move(candidate.config), std::move(result.plan)};
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
      subjects.push_back({.model = &model_, .plan = &format.plan, .activations = activations_});
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
  const std::vector<EvaluationSet>& sets_;
  ActivationArithmetic activations_;
  const RunControl& control_;
  FormatComparison comparison_;
};

}  // namespace

FormatComparison compare_formats(const Model& model, const QuantizationConfig& base,
                                 const std::vector<EvaluationSet>& sets, ActivationArithmetic activations,
                                 const RunControl& control) {
  if (model.stored_quantization) {
    throw Error(ErrorCode::kInvalidArgument, model.path.string(), "is quantized already: its formats are final",
                "compare the formats of the unquantized checkpoint");
  }
  return FormatComparer(model, sets, activations, control).run(base);
}

}  // namespace diffulex_edge
