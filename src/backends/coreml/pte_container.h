// An ExecuTorch program whose one delegate is Core ML: a package's files, flattened. docs/FORMATS.md has the layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "backends/coreml/mil_program.h"
#include "backends/coreml/options.h"
#include "backends/executorch/program_builder.h"
#include "core/output_file.h"

namespace diffulex_edge::coreml {

class PteContainer {
 public:
  using Files = std::vector<std::pair<std::string, std::string>>;  // path in the package, content

  // `files` are all of the package but its weights. The program's inputs have the model's types, `input_dtypes`, such
  // as int64 for token ids, as ExecuTorch's own export has them: the delegate converts them to the function's int32.
  // `constants` come behind the method.
  PteContainer(const Files& files, const std::string& weights_path, std::int64_t weights_bytes,
               const MilFunction& function, const std::vector<DType>& input_dtypes, const DeploymentTarget& target,
               const std::string& compute_unit, const std::vector<executorch::ConstantMethod>& constants = {});

  std::int64_t file_bytes() const { return payload_begin_ + payload_bytes_; }
  std::int64_t weights_offset() const { return payload_begin_ + weights_begin_; }
  // Everything but the weights.
  void write(OutputFile& file) const;

 private:
  std::vector<std::byte> program_;
  std::int64_t payload_begin_ = 0;
  std::int64_t payload_bytes_ = 0;
  std::int64_t weights_begin_ = 0;                            // in the payload
  std::vector<std::pair<std::int64_t, std::string>> pieces_;  // offset in the payload, bytes
};

}  // namespace diffulex_edge::coreml
