// Token ids in a .npy file, as evaluation data.
#include "input_folder.h"
#include "readers.h"
#include "runtime/token_data.h"

namespace diffulex_edge::fuzz {

void read_npy(std::string_view input) {
  static InputFolder folder({"data.npy"});
  folder.fill(input);
  static_cast<void>(read_token_sequences(folder / "data.npy", nullptr, {.length = 64, .vocab_size = 1000}));
}

}  // namespace diffulex_edge::fuzz
