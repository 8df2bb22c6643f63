// An ExecuTorch program (.pte), with the payloads of all delegates.
#include "input_folder.h"
#include "model_reading.h"
#include "readers.h"

namespace diffulex_edge::fuzz {

void read_program(std::string_view input) {
  static InputFolder folder({"model.pte"});
  folder.fill(input);
  show(folder / "model.pte");
}

}  // namespace diffulex_edge::fuzz
