// ExecuTorch's view of a mapped file.
#pragma once

#include <executorch/runtime/core/data_loader.h>

#include <cstddef>

#include "core/mapped_file.h"

namespace diffulex_edge::runner {

class MappedDataLoader : public executorch::runtime::DataLoader {
 public:
  // `file` must outlive what is loaded.
  explicit MappedDataLoader(const MappedFile& file) : file_(file) {}

  executorch::runtime::Result<executorch::runtime::FreeableBuffer> load(std::size_t offset, std::size_t size,
                                                                        const SegmentInfo& segment) const override;
  executorch::runtime::Error load_into(std::size_t offset, std::size_t size, const SegmentInfo& segment,
                                       void* buffer) const override;
  executorch::runtime::Result<std::size_t> size() const override { return file_.bytes().size(); }

 private:
  bool holds(std::size_t offset, std::size_t size) const;

  const MappedFile& file_;
};

}  // namespace diffulex_edge::runner
