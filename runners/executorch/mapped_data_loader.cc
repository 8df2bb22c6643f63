#include "executorch/mapped_data_loader.h"

#include <cstring>

namespace diffulex_edge::runner {

namespace et = executorch::runtime;

bool MappedDataLoader::holds(std::size_t offset, std::size_t size) const {
  return offset <= file_.bytes().size() && size <= file_.bytes().size() - offset;
}

et::Result<et::FreeableBuffer> MappedDataLoader::load(std::size_t offset, std::size_t size,
                                                      const SegmentInfo& /*segment*/) const {
  if (!holds(offset, size)) {
    return et::Error::InvalidArgument;
  }
  return et::FreeableBuffer(file_.bytes().data() + offset, size, nullptr);
}

et::Error MappedDataLoader::load_into(std::size_t offset, std::size_t size, const SegmentInfo& /*segment*/,
                                      void* buffer) const {
  if (!holds(offset, size)) {
    return et::Error::InvalidArgument;
  }
  std::memcpy(buffer, file_.bytes().data() + offset, size);
  return et::Error::Ok;
}

}  // namespace diffulex_edge::runner
