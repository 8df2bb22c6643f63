// One fuzzer: DIFFULEX_EDGE_FUZZ_READER is its reader's function, DIFFULEX_EDGE_FUZZ_FILE the name of an input that is
// one file.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "mutators.h"
#include "readers.h"

namespace {

std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace

// What escapes ends the process, which is how libFuzzer knows a finding.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  diffulex_edge::fuzz::read_or_refuse([&] { diffulex_edge::fuzz::DIFFULEX_EDGE_FUZZ_READER(text_of(data, size)); });
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  diffulex_edge::fuzz::Random random(seed + 1);
  const std::string changed =
      diffulex_edge::fuzz::mutate_input(text_of(data, size), DIFFULEX_EDGE_FUZZ_FILE, max_size, random);
  const std::size_t kept = changed.size() < max_size ? changed.size() : max_size;
  std::memcpy(data, changed.data(), kept);
  return kept;
}
