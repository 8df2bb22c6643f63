// Weights of a test's graph, in float32, and batches of its token ids.
#pragma once

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "diffulex_edge/graph.h"
#include "runtime/batch.h"
#include "runtime/model_layers.h"
#include "support/interpreter.h"

namespace diffulex_edge::testing {

inline Array random_values(std::vector<std::int64_t> shape, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::int64_t count = 1;
  for (const std::int64_t size : shape) {
    count *= size;
  }
  Array array{.shape = std::move(shape), .values = {}};
  for (std::int64_t i = 0; i < count; ++i) {
    array.values.push_back(static_cast<double>(normal(generator)));  // a float32, so that both sides have the same
  }
  return array;
}

class MemoryLayers final : public ModelLayers {
 public:
  // Keeps a reference.
  MemoryLayers(const Graph& graph, const std::map<std::string, Array>& weights) : graph_(graph), weights_(weights) {}

  void run(const Node& node, std::span<const float> x, std::span<float> y, std::int64_t tokens,
           const RunControl& /*control*/) const override {
    const Array& weight = weights_.at(graph_.tensor(node.inputs[1]));
    const auto rows = static_cast<std::size_t>(weight.shape[0]);
    const auto columns = static_cast<std::size_t>(weight.shape[1]);
    for (std::size_t i = 0; i < static_cast<std::size_t>(tokens) * rows; ++i) {
      const std::size_t row = i % rows;
      double sum = node.inputs.size() > 2 ? weights_.at(graph_.tensor(node.inputs[2])).values[row] : 0.0;
      for (std::size_t k = 0; k < columns; ++k) {
        sum += static_cast<double>(x[i / rows * columns + k]) * weight.values[row * columns + k];
      }
      y[i] = static_cast<float>(sum);
    }
  }
  void load_weight(const Node& /*user*/, const std::string& tensor, std::int64_t row_begin, std::int64_t rows,
                   std::span<float> target) const override {
    const auto width = static_cast<std::int64_t>(target.size()) / rows;
    const std::vector<double>& values = weights_.at(tensor).values;
    std::transform(values.begin() + row_begin * width, values.begin() + (row_begin + rows) * width, target.begin(),
                   [](double value) { return static_cast<float>(value); });
  }
  std::vector<float> load_vector(const std::string& tensor) const override {
    const std::vector<double>& values = weights_.at(tensor).values;
    return {values.begin(), values.end()};
  }

 private:
  const Graph& graph_;
  const std::map<std::string, Array>& weights_;
};

}  // namespace diffulex_edge::testing
