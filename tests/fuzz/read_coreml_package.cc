// A Core ML package.
#include "backends/coreml/package.h"
#include "input_folder.h"
#include "model_reading.h"
#include "readers.h"

namespace diffulex_edge::fuzz {

void read_coreml_package(std::string_view input) {
  static InputFolder folder({coreml::kModelFile, coreml::kManifestFile, "Data/com.apple.CoreML/weights/weight.bin"},
                            ".mlpackage");
  folder.fill(input);
  show(folder.path());
}

}  // namespace diffulex_edge::fuzz
