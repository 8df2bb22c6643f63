#include "backends/coreml/weight_file.h"

#include <cstring>

#include "diffulex_edge/error.h"

namespace diffulex_edge::coreml {

StoredBlob read_blob(std::span<const std::byte> file, std::uint64_t offset, const std::string& name) {
  const auto fail = [&](const std::string& what) {
    throw Error(ErrorCode::kBadFile, name, what, "the file is truncated or damaged");
  };
  FileHead head;
  if (file.size() < sizeof(head)) {
    fail("its " + std::to_string(file.size()) + " bytes are less than the head of a weight file");
  }
  std::memcpy(&head, file.data(), sizeof(head));
  if (head.version != kFileVersion) {
    fail("is not a weight file of version 2");
  }
  const std::string place = "the weight at offset " + std::to_string(offset);
  BlobMetadata metadata;
  if (offset < sizeof(head) || offset > file.size() || sizeof(metadata) > file.size() - offset) {
    fail(place + " is outside of the file's " + std::to_string(file.size()) + " bytes");
  }
  std::memcpy(&metadata, file.data() + offset, sizeof(metadata));
  if (metadata.sentinel != kSentinel) {
    fail(place + " does not begin with the mark of an entry");
  }
  if (metadata.data_offset < sizeof(head) || metadata.data_offset > file.size() ||
      metadata.bytes > file.size() - metadata.data_offset) {
    fail(place + " claims " + std::to_string(metadata.bytes) + " bytes at " + std::to_string(metadata.data_offset) +
         ", which the file's " + std::to_string(file.size()) + " do not have for it");
  }
  if (metadata.padding_bits >= 8 || (metadata.bytes == 0 && metadata.padding_bits > 0)) {
    fail(place + " claims " + std::to_string(metadata.padding_bits) + " unused bits in its last byte");
  }
  return {.type = metadata.type,
          .bytes = file.subspan(metadata.data_offset, metadata.bytes),
          .padding_bits = metadata.padding_bits};
}

}  // namespace diffulex_edge::coreml
