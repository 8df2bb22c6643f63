// A program of somebody who installed the library: exports a model and prints the file's size.

#include <diffulex_edge/diffulex_edge.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: consumer MODEL FILE\n";
    return 2;
  }
  const diffulex_edge::Model model = diffulex_edge::load_model(argv[1]);
  diffulex_edge::BackendConfig config;
  config.quant_config.dtype = diffulex_edge::QuantizationDtype::INT4;
  diffulex_edge::XNNPACKBackend backend(config);
  const diffulex_edge::ExportResult result = backend.export_model(model, argv[2]);
  std::cout << result.error_message << result.metadata.file_bytes << "\n";
  return result.success ? 0 : 1;
}
