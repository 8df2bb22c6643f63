// Mutations that keep an input's outer form, where a length or an offset that no longer fits would be all that a reader
// sees: several files in one input, safetensors, GGUF, and protocol buffers.
#pragma once

#include <random>
#include <string>
#include <string_view>

namespace diffulex_edge::fuzz {

using Random = std::minstd_rand;

// By libFuzzer's own mutations (LLVMFuzzerMutate) of one part. `name` is that of a single file.
std::string mutate_input(std::string_view input, std::string_view name, std::size_t max_size, Random& random);

// --- For a file of each kind; in a part of all cases, its bytes without regard to the form.
std::string mutate_bytes(std::string bytes, std::size_t max_size);
std::string mutate_safetensors(std::string_view file, std::size_t max_size, Random& random);
std::string mutate_gguf(std::string_view file, std::size_t max_size, Random& random);
std::string mutate_message(std::string_view message, std::size_t max_size, Random& random);

inline std::size_t below(std::size_t count, Random& random) { return count == 0 ? 0 : random() % count; }

}  // namespace diffulex_edge::fuzz
