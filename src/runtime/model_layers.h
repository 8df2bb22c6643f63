// What an execution session asks for of a model's weights, however they are kept.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "diffulex_edge/graph.h"
#include "diffulex_edge/progress.h"

namespace diffulex_edge {

class ModelLayers {
 public:
  virtual ~ModelLayers() = default;

  // A linear layer, y = x W^T + bias: computes all of `y` [tokens, rows] from `x` [tokens, columns]. The result does
  // not depend on the number of threads.
  virtual void run(const Node& node, std::span<const float> x, std::span<float> y, std::int64_t tokens,
                   const RunControl& control) const = 0;

  // Rows of a weight as they are stored for `user`, as float32.
  virtual void load_weight(const Node& user, const std::string& tensor, std::int64_t row_begin, std::int64_t rows,
                           std::span<float> target) const = 0;
  // A norm's weight.
  virtual std::vector<float> load_vector(const std::string& tensor) const = 0;
};

}  // namespace diffulex_edge
