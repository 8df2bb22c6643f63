// Which tensors of a checkpoint hold the same data, so that artefacts store it once.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "diffulex_edge/checkpoint.h"

namespace diffulex_edge {

class DistinctTensors {
 public:
  explicit DistinctTensors(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  // The first tensor asked for that has the same type, shape and bytes as `tensor`, and scales (`NAME_scale`) with the
  // same bytes, if any.
  const std::string& content_of(const std::string& tensor);

 private:
  const Checkpoint& checkpoint_;
  std::map<std::string, std::string> content_;
  // Tensors that are no copies, by what is cheap to compare: a model with experts has thousands of one shape.
  std::map<std::string, std::vector<std::string>> originals_;
};

}  // namespace diffulex_edge
