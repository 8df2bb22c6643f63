#include "runtime/batch.h"

#include <optional>
#include <string>
#include <utility>

#include "diffulex_edge/calibration.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

// One input of one run; `length` is the sequence's, from the first input that has it.
void check_input(const Node& node, const InputTensor& given, std::int64_t longest, const std::string& run,
                 std::optional<std::int64_t>& length) {
  bool fits = given.shape.size() == node.shape.size();
  std::int64_t count = 1;
  for (std::size_t axis = 0; fits && axis < node.shape.size(); ++axis) {
    const std::int64_t size = given.shape[axis];
    count *= size;
    if (!node.shape[axis].is_sequence) {
      fits = size == node.shape[axis].value;
    } else {
      fits = size >= 1 && size <= longest && size == length.value_or(size);
      length = size;
    }
  }
  if (!fits || !std::cmp_equal(count, given.values.size())) {
    throw Error(ErrorCode::kInvalidArgument, run,
                "the input " + node.name + " has the shape " + to_string(static_shape(given.shape)) + ", not " +
                    to_string(node.shape) + (length ? " with one length for all of its inputs" : ""),
                "calibrate with inputs of the shapes that the module is exported for");
  }
}

Batch make_batch(const Model& model, const std::vector<std::vector<InputTensor>>& runs) {
  std::vector<const Node*> nodes;
  for (const Node& node : model.graph.nodes()) {
    if (node.op == Op::kInput) {
      nodes.push_back(&node);
    }
  }
  Batch batch;
  batch.inputs.resize(nodes.size());
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const std::string where = "calibration run " + std::to_string(i);
    if (runs[i].size() != nodes.size()) {
      throw Error(ErrorCode::kInvalidArgument, where,
                  "has " + std::to_string(runs[i].size()) + " inputs, the module " + std::to_string(nodes.size()));
    }
    std::optional<std::int64_t> length;  // none where every shape is fixed
    for (std::size_t k = 0; k < nodes.size(); ++k) {
      const InputTensor& given = runs[i][k];
      check_input(*nodes[k], given, model.seq_len, where, length);
      batch.inputs[k].insert(batch.inputs[k].end(), given.values.begin(), given.values.end());
    }
    batch.offsets.push_back(batch.offsets.back() + length.value_or(1));
    batch.starts.push_back(0);
  }
  return batch;
}

}  // namespace

Batch make_batch(const Model& model, const CalibrationData& data) {
  return data.runs.empty() ? make_batch(model, data.inputs) : make_batch(model, data.runs);
}

Batch make_batch(const Model& model, const TokenSequences& sequences, std::span<const std::int64_t> starts) {
  Batch batch;
  std::vector<float>& ids = batch.inputs.emplace_back();
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const std::int64_t start = starts.empty() ? 0 : starts[i];
    const auto length = static_cast<std::int64_t>(sequences[i].size());
    const std::string where = "sequence " + std::to_string(i);
    if (length == 0 || start < 0 || length > model.seq_len - start) {
      throw Error(ErrorCode::kInvalidArgument, where,
                  std::to_string(length) + " tokens " +
                      (start == 0 ? std::string() : "from position " + std::to_string(start) + " ") + "are not in 1.." +
                      std::to_string(model.seq_len),
                  "load the model with another sequence length, or cut the sequence");
    }
    for (const std::int64_t id : sequences[i]) {
      if (id < 0 || id >= model.config.vocab_size) {
        throw Error(
            ErrorCode::kInvalidArgument, where,
            "token " + std::to_string(id) + " is not in the vocabulary of " + std::to_string(model.config.vocab_size));
      }
      ids.push_back(static_cast<float>(id));
    }
    batch.offsets.push_back(batch.offsets.back() + length);
    batch.starts.push_back(start);
  }
  if (batch.tokens() == 0) {
    throw Error(ErrorCode::kInvalidArgument, "batch", "has no sequence");
  }
  return batch;
}

}  // namespace diffulex_edge
