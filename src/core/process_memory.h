// What the system says about this process's memory.
#pragma once

#include <cstdint>

namespace diffulex_edge {

// The largest resident set size so far, in bytes.
std::int64_t peak_rss_bytes();

}  // namespace diffulex_edge
