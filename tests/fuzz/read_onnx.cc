// A folder of ONNX models for QNN.
#include "backends/qnn/package.h"
#include "input_folder.h"
#include "model_reading.h"
#include "readers.h"

namespace diffulex_edge::fuzz {

void read_onnx(std::string_view input) {
  static InputFolder folder({"model.onnx", qnn::kManifestFile, "model.onnx.data", "model_encodings.json"});
  folder.fill(input);
  show(folder.path());
}

}  // namespace diffulex_edge::fuzz
