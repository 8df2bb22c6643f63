#include "model_reading.h"

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "checkpoint/stored_weight.h"
#include "diffulex_edge/inspection.h"
#include "diffulex_edge/quantization.h"
#include "diffulex_edge/report.h"
#include "models/special_tokens.h"
#include "quant/weight_decoder.h"
#include "readers.h"

namespace diffulex_edge::fuzz {
void read_first_rows(const Checkpoint& checkpoint) {
  for (const auto& [name, unused] : checkpoint.tensors()) {
    read_or_refuse([&, &tensor = name] {
      const StoredWeight weight = find_stored_weight(checkpoint, tensor);
      if (weight.rows > 0 && weight.columns > 0) {
        std::vector<float> row(static_cast<std::size_t>(weight.columns));
        load_rows(weight, 0, 1, row);
        load_rows(weight, weight.rows - 1, 1, row);
      }
    });
  }
}

void use_model(const Model& model) {
  read_first_rows(*model.checkpoint);
  read_or_refuse([&] { static_cast<void>(find_eos_ids(model)); });
  read_or_refuse([&] { static_cast<void>(find_bos_id(model)); });
  read_or_refuse([&] { static_cast<void>(find_mask_token(model)); });
  static_cast<void>(planned_bytes(quantize_model(model, default_quantization_config(model)).plan));
}

void show(const std::filesystem::path& path) {
  const Inspection inspection = inspect(path, {.hashes = false});
  // Of a checkpoint's weight in another program's layout, `bytes` are those of several tensors.
  const bool is_artefact = !inspection.config && inspection.kind != "safetensors";
  for (const InspectedTensor& tensor : inspection.tensors) {
    const std::filesystem::path file = std::filesystem::is_directory(path) ? path / tensor.file : path;
    const auto size = static_cast<std::int64_t>(std::filesystem::file_size(file));
    const std::int64_t end = is_artefact ? tensor.bytes : 0;
    if (tensor.offset < 0 || tensor.bytes < 0 || tensor.offset > size || end > size - tensor.offset) {
      throw std::logic_error("the tensor " + tensor.name + " lies outside of its file");
    }
  }
  static_cast<void>(to_json(inspection));
  static_cast<void>(to_text(inspection));
}

}  // namespace diffulex_edge::fuzz
