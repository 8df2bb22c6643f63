// Charts of what was done to a model's layers, and what it cost.
#pragma once

#include <string>
#include <vector>

#include "diffulex_edge/calibration.h"
#include "diffulex_edge/evaluation.h"
#include "diffulex_edge/quantization.h"
#include "report/chart.h"

namespace diffulex_edge {

// One weight and its bytes in the file; 0 where it shares another's.
struct SizedLayer {
  const LayerPlan* plan = nullptr;
  std::int64_t bytes = 0;
};

Style style_of(const WeightFormat& format);
Style style_of(QuantizationDtype dtype);

// The formats that occur.
std::string format_legend(const std::vector<SizedLayer>& layers);
// Stored MiB of each kind of layer, coloured by format, largest first.
std::string size_chart(const std::vector<SizedLayer>& layers);
// Stored size of each linear layer in the blocks, coloured by format, of the kinds that differ from block to block;
// empty where none does.
std::string layer_size_chart(const std::vector<SizedLayer>& layers);
// Bytes of a plan's weights, equal tensors of one format once, as planned_bytes counts them.
std::vector<SizedLayer> sized_layers(const QuantizationPlan& plan);

// Signal-to-noise ratio of each layer's output, coloured by format; `plan` may be null. Kinds of layers that are equal
// in every block are named under the chart.
std::string noise_chart(const std::vector<LayerNoise>& layers, const QuantizationPlan* plan);

// Output error of each rounded layer, in percent of round-to-nearest's, coloured by the method; with its legend.
std::string rounding_chart(const std::vector<LayerRounding>& rounding);

// What calibration saw of each layer's input: ranges of masked and unmasked tokens, with legend.
std::string activation_range_chart(const std::vector<LayerStatistics>& statistics);
// The noise of 8-bit integers with one static scale and with one for each token, with legend.
std::string activation_noise_chart(const std::vector<LayerStatistics>& statistics);

}  // namespace diffulex_edge
