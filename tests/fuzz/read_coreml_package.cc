// A Core ML package.
#include <string>

#include "backends/coreml/package.h"
#include "input_folder.h"
#include "model_reading.h"
#include "readers.h"

namespace diffulex_edge::fuzz {

void read_coreml_package(std::string_view input) {
  const std::string weights = "Data/com.apple.CoreML/weights/";
  static InputFolder folder({coreml::kModelFile, coreml::kManifestFile, weights + "weight.bin",
                             weights + "0-weight.bin", weights + "1-weight.bin", weights + "2-weight.bin"},
                            ".mlpackage");
  folder.fill(input);
  show(folder.path());
}

}  // namespace diffulex_edge::fuzz
