// A safetensors file of a model's logits on evaluation sets, for other runtimes' to be compared with.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <stop_token>
#include <vector>

#include "core/output_file.h"
#include "diffulex_edge/evaluation.h"

namespace diffulex_edge {

// Whether a set's sequences do not differ in length, so that a file has them as a tensor.
bool has_one_length(const EvaluationSet& set);

// For each set's label R: input_ids_R and target_ids_R, int64 [sequences, length], and logits_R, float32 [counted,
// vocab], a row for each counted position in the order of sequences and positions.
class LogitsFile {
 public:
  // Keeps no reference. Errors: kInvalidArgument for a set of sequences that differ in length, kIo.
  LogitsFile(const std::filesystem::path& target, const std::vector<EvaluationSet>& sets, std::int64_t vocab_size);

  // The next row of a set.
  void append(std::size_t set, std::span<const float> logits);
  // All rows are there: the file appears. Throws Error{kCancelled} when asked to stop.
  void commit(const std::stop_token& stop);

 private:
  struct Layout;
  explicit LogitsFile(const std::filesystem::path& target, Layout layout);

  OutputFile file_;
  std::vector<std::int64_t> next_;  // of each set: where its next row begins
};

}  // namespace diffulex_edge
