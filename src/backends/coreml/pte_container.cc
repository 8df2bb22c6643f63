#include "backends/coreml/pte_container.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <span>

#include "core/sha256.h"

namespace diffulex_edge::coreml {
namespace {

constexpr std::int64_t kSegmentAlignment = 128;
constexpr const char* kPackage = "model.mlpackage/";
constexpr int kFile = 0;
constexpr int kFolder = 1;

// A file or folder of the payload's file system.
struct Entry {
  std::map<std::string, Entry> children;
  bool is_file = false;
  std::int64_t offset = 0;
  std::int64_t bytes = 0;

  Entry& at(const std::string& path) {
    const std::size_t slash = path.find('/');
    Entry& child = children[path.substr(0, slash)];
    return slash == std::string::npos ? child : child.at(path.substr(slash + 1));
  }

  // Appends its children and itself; the index of itself.
  std::size_t append_to(nlohmann::json& nodes, const std::string& name) const {
    nlohmann::json indices = nlohmann::json::object();
    for (const auto& [child_name, child] : children) {
      indices[child_name] = child.append_to(nodes, child_name);
    }
    nodes.push_back({{"children", indices},
                     {"dataRegion", {{"offset", offset}, {"size", bytes}}},
                     {"kind", is_file ? kFile : kFolder},
                     {"name", name}});
    return nodes.size() - 1;
  }
};

// The directory of the payload: JSON, its bytes in reverse order, so that a reader can begin at the payload's end.
std::string trailer(const Entry& root) {
  nlohmann::json nodes = nlohmann::json::array();
  root.append_to(nodes, "lowered_module");
  std::string text = nlohmann::json{{"nodes", nodes}}.dump();
  std::ranges::reverse(text);
  return text;
}

std::vector<std::string> names_of(const std::vector<MilFunction::Feature>& features) {
  std::vector<std::string> names;
  for (const MilFunction::Feature& feature : features) {
    names.push_back(feature.name);
  }
  return names;
}

executorch::schema::ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kI64:
      return executorch::schema::ScalarType::LONG;
    case DType::kI32:
      return executorch::schema::ScalarType::INT;
    default:
      return executorch::schema::ScalarType::FLOAT;
  }
}

}  // namespace

PteContainer::PteContainer(const Files& files, const std::string& weights_path, std::int64_t weights_bytes,
                           const MilFunction& function, const std::vector<DType>& input_dtypes,
                           const DeploymentTarget& target, const std::string& compute_unit,
                           const std::vector<executorch::ConstantMethod>& constants) {
  // The key of the device's cache of compiled models, which is never compared with what it names: it has to be another
  // for every other model. The model's message holds the hash of the weights' source and the options.
  std::string all;
  for (const auto& [path, content] : files) {
    all += content;
  }
  const nlohmann::json metadata{{"inputNames", names_of(function.inputs())},
                                {"outputNames", names_of(function.outputs())},
                                {"identifier", "executorch_" + sha256_hex(std::as_bytes(std::span(all)))}};

  Entry root;
  const auto place = [&](const std::string& path, std::int64_t bytes) {
    root.at(path) = {.children = {}, .is_file = true, .offset = payload_bytes_, .bytes = bytes};
    payload_bytes_ += bytes;
    return payload_bytes_ - bytes;
  };
  const auto add = [&](const std::string& path, std::string content) {
    const std::int64_t offset = place(path, static_cast<std::int64_t>(content.size()));
    pieces_.emplace_back(offset, std::move(content));
  };
  add("metadata.json", metadata.dump());
  for (const auto& [path, content] : files) {
    add(kPackage + path, content);
  }
  weights_begin_ = place(kPackage + weights_path, weights_bytes);
  std::string end = trailer(root);
  const auto end_bytes = static_cast<std::int64_t>(end.size());
  pieces_.emplace_back(payload_bytes_, std::move(end));
  payload_bytes_ += end_bytes;

  executorch::ProgramBuilder builder("forward");
  std::vector<executorch::ProgramBuilder::ValueIndex> arguments;
  for (std::size_t i = 0; i < function.inputs().size(); ++i) {
    arguments.push_back(builder.planned_tensor(scalar_type(input_dtypes.at(i)), function.inputs()[i].type.shape));
    builder.set_input(arguments.back());
  }
  for (const MilFunction::Feature& feature : function.outputs()) {
    const DType dtype = feature.type.dtype == MilDtype::kInt32 ? DType::kI32 : DType::kF32;
    arguments.push_back(builder.planned_tensor(scalar_type(dtype), feature.type.shape));
    builder.set_output(arguments.back());
  }
  builder.delegate_call("CoreMLBackend", arguments, 0,
                        {{"compute_units", compute_unit},
                         {"min_deployment_target", std::to_string(target.specification)},
                         {"model_type", "model"}});
  builder.add_constant_methods(constants);
  program_ = builder.serialize({.segments = {{.offset = 0, .size = payload_bytes_}},
                                .named = {},
                                .constant_segment = 0,
                                .constant_offsets = {0},
                                .segment_alignment = kSegmentAlignment,
                                .segments_end = payload_bytes_});
  payload_begin_ = static_cast<std::int64_t>(program_.size());
}

void PteContainer::write(OutputFile& file) const {
  file.write(0, program_);
  for (const auto& [offset, bytes] : pieces_) {
    file.write(payload_begin_ + offset, std::as_bytes(std::span(bytes)));
  }
}

}  // namespace diffulex_edge::coreml
