#include "readers.h"

#include <stdexcept>
#include <string>

#include "diffulex_edge/error.h"

namespace diffulex_edge::fuzz {

void read_or_refuse(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    const std::string_view text = error.what();
    if (error.code() == ErrorCode::kInternal || text.empty() || text.find('\n') != std::string_view::npos) {
      throw std::logic_error("not an answer to bad input: " + std::string(text));
    }
  }
}

}  // namespace diffulex_edge::fuzz
