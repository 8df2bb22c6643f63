#include "backends/coreml/model_reader.h"

#include <array>
#include <string_view>
#include <utility>

#include "backends/coreml/description_reader.h"
#include "backends/coreml/message_fields.h"
#include "core/message_reader.h"

namespace diffulex_edge::coreml {
namespace {

// Kinds of models that are no programs: the most common ones' fields of Model.
constexpr std::array kOtherModels = {
    NumberedName{200, "pipelineClassifier"},
    NumberedName{201, "pipelineRegressor"},
    NumberedName{303, "neuralNetworkRegressor"},
    NumberedName{302, "treeEnsembleRegressor"},
    NumberedName{402, "treeEnsembleClassifier"},
    NumberedName{403, "neuralNetworkClassifier"},
    NumberedName{500, "neuralNetwork"},
    NumberedName{555, "customModel"},
    NumberedName{604, "scaler"},
    NumberedName{607, "normalizer"},
    NumberedName{610, "nonMaximumSuppression"},
    NumberedName{900, "identity"},
    NumberedName{3000, "serializedModel"},
};
constexpr protozero::pbf_tag_type kFirstModelType = 200;

class ModelReader {
 public:
  explicit ModelReader(const std::string& file) : file_(file) {}

  ReadModel read(std::string_view message) {
    try {
      ReadModel result;
      result.model = read_model(MessageReader(message), 0);
      result.weights = std::move(weights_);
      return result;
    } catch (const protozero::exception& error) {
      fail_message(file_, std::string("is not a valid model message: ") + error.what());
    }
  }

 private:
  InspectedModel read_model(MessageReader message, int depth) {
    check_message_depth(file_, depth);
    InspectedModel model;
    std::string_view description;
    std::string_view body;
    while (message.next()) {
      switch (message.tag()) {
        case field::kModelSpecification:
          model.specification_version = message.integer();
          break;
        case field::kModelDescription:
          description = message.view();
          break;
        case field::kModelPipeline:
          model.type = "pipeline";
          body = message.view();
          break;
        case field::kModelProgram:
          model.type = "mlProgram";
          body = message.view();
          break;
        default:
          if (message.tag() >= kFirstModelType) {
            model.type = find_name(kOtherModels, message.tag()).value_or("type " + std::to_string(message.tag()));
          }
          message.skip();
      }
    }
    if (model.specification_version < 1 || model.type.empty()) {
      fail_message(file_, "holds no model with a specification version");
    }
    ModelDescription described = read_description(description, file_);
    model.features = std::move(described.features);
    model.description = std::move(described.text);
    model.metadata = std::move(described.metadata);
    if (model.type == "pipeline") {
      read_pipeline(MessageReader(body), model, depth);
    } else if (model.type == "mlProgram") {
      model.functions = read_program(body, file_, weights_);
      for (InspectedFunction& function : model.functions) {
        function.features = std::move(described.functions[function.name]);
      }
    }
    return model;
  }

  void read_pipeline(MessageReader message, InspectedModel& model, int depth) {
    std::vector<std::string> names;
    while (message.next()) {
      switch (message.tag()) {
        case field::kPipelineModels:
          model.models.push_back(read_model(message.message(), depth + 1));
          break;
        case field::kPipelineNames:
          names.push_back(message.text());
          break;
        default:
          message.skip();
      }
    }
    for (std::size_t i = 0; i < model.models.size(); ++i) {
      model.models[i].name = i < names.size() ? names[i] : std::to_string(i);
    }
  }

  const std::string& file_;
  std::vector<WeightReference> weights_;
};

}  // namespace

ReadModel read_model(std::span<const std::byte> message, const std::string& name) {
  return ModelReader(name).read({reinterpret_cast<const char*>(message.data()), message.size()});
}

}  // namespace diffulex_edge::coreml
