#include "runtime/logits_file.h"

#include <algorithm>
#include <string>
#include <utility>

#include "checkpoint/safetensors_writer.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge {
namespace {

std::int64_t counted(const EvaluationSet& set) {
  std::int64_t count = 0;
  for (const auto& targets : set.targets) {
    count += std::ranges::count_if(targets, [](std::int64_t target) { return target != kIgnoredTarget; });
  }
  return count;
}

std::int64_t length_of(const EvaluationSet& set) {
  if (!has_one_length(set)) {
    throw Error(ErrorCode::kInvalidArgument, "set " + set.label, "has sequences that differ in length",
                "logits are written for sequences of one length");
  }
  return static_cast<std::int64_t>(set.inputs.front().size());
}

std::vector<TensorToWrite> tensors_of(const std::vector<EvaluationSet>& sets, std::int64_t vocab_size) {
  std::vector<TensorToWrite> tensors;
  for (const EvaluationSet& set : sets) {
    const auto sequences = static_cast<std::int64_t>(set.inputs.size());
    for (const char* kind : {"input_ids_", "target_ids_"}) {
      tensors.push_back({.name = kind + set.label, .dtype = DType::kI64, .shape = {sequences, length_of(set)}});
    }
    tensors.push_back({.name = "logits_" + set.label, .dtype = DType::kF32, .shape = {counted(set), vocab_size}});
  }
  return tensors;
}

}  // namespace

bool has_one_length(const EvaluationSet& set) {
  return std::ranges::all_of(set.inputs, [&](const auto& ids) { return ids.size() == set.inputs.front().size(); });
}

struct LogitsFile::Layout {
  Layout(const std::vector<EvaluationSet>& all, std::int64_t vocab_size)
      : sets(all), tensors(tensors_of(all, vocab_size)), head(lay_out_safetensors(tensors, file_bytes)) {}

  std::int64_t offset(const std::string& name) const {
    return std::ranges::find(tensors, name, &TensorToWrite::name)->offset;
  }

  const std::vector<EvaluationSet>& sets;
  std::vector<TensorToWrite> tensors;  // in the file's order
  std::int64_t file_bytes = 0;
  std::string head;
};

LogitsFile::LogitsFile(const std::filesystem::path& target, const std::vector<EvaluationSet>& sets,
                       std::int64_t vocab_size)
    : LogitsFile(target, Layout(sets, vocab_size)) {}

LogitsFile::LogitsFile(const std::filesystem::path& target, Layout layout) : file_(target, layout.file_bytes) {
  file_.write(0, std::as_bytes(std::span(layout.head)));
  const auto write_ids = [&](const std::string& name, const TokenSequences& sequences) {
    std::int64_t offset = layout.offset(name);
    for (const auto& ids : sequences) {
      const auto bytes = std::as_bytes(std::span(ids));
      file_.write(offset, bytes);
      offset += static_cast<std::int64_t>(bytes.size());
    }
  };
  for (const EvaluationSet& set : layout.sets) {
    write_ids("input_ids_" + set.label, set.inputs);
    write_ids("target_ids_" + set.label, set.targets);
    next_.push_back(layout.offset("logits_" + set.label));
  }
}

void LogitsFile::append(std::size_t set, std::span<const float> logits) {
  const auto bytes = std::as_bytes(logits);
  file_.write(next_[set], bytes);
  next_[set] += static_cast<std::int64_t>(bytes.size());
}

void LogitsFile::commit(const std::stop_token& stop) {
  file_.flush(stop);
  file_.commit();
}

}  // namespace diffulex_edge
