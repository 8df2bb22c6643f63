#include "report/layer_charts.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "core/join.h"
#include "report/description.h"
#include "report/svg.h"
#include "report/text_table.h"

namespace diffulex_edge {
namespace {

std::string size_text(double mib) { return mib < 0.1 ? format_number(1024.0 * mib, 1) + " KiB" : format_mib(mib); }

Style style_of(RoundingMethod method) {
  switch (method) {
    case RoundingMethod::RTN:
      return Style::kGrey;
    case RoundingMethod::MSE:
      return Style::kBlue;
    case RoundingMethod::HQQ:
      return Style::kGreen;
    case RoundingMethod::GPTQ:
      return Style::kOrange;
    case RoundingMethod::AWQ:
      return Style::kPurple;
    case RoundingMethod::AUTO:
      return Style::kTeal;
  }
  return Style::kGrey;
}

// The panels that show nothing, in words.
std::string uniform_note(const std::vector<std::string>& titles) {
  if (titles.empty()) {
    return {};
  }
  return "<p class=\"note\">The same in every block: " + svg::escape(join(titles, ", ")) + ".</p>";
}

std::string decibels(double value) { return std::isinf(value) ? "no error at all" : format_number(value, 1) + " dB"; }

}  // namespace

Style style_of(const WeightFormat& format) {
  const ElementTraits& element = traits(format.element);
  switch (element.kind) {
    case ElementKind::kFloat:
      return element.bits == 16 ? Style::kBlue : Style::kGrey;
    case ElementKind::kGrid:
      return element.bits == 8 ? Style::kGreen : Style::kOrange;
    case ElementKind::kCodebook:
      return Style::kTeal;
    case ElementKind::kInteger:
      break;
  }
  return Style::kGrey;
}

Style style_of(QuantizationDtype dtype) { return style_of(format_row(dtype).format(0)); }

std::string format_legend(const std::vector<SizedLayer>& layers) {
  std::map<Style, std::set<std::string>> names;
  for (const SizedLayer& layer : layers) {
    names[style_of(layer.plan->format)].insert(to_string(layer.plan->format));
  }
  std::vector<LegendEntry> entries;
  for (const auto& [style, formats] : names) {
    entries.push_back({.name = join(formats, "; "), .style = style});
  }
  return legend(entries, LegendMark::kArea);
}

std::vector<SizedLayer> sized_layers(const QuantizationPlan& plan) {
  std::vector<SizedLayer> layers;
  std::set<std::pair<std::string, std::string>> seen;
  for (const LayerPlan& layer : plan.layers) {
    const bool is_first = seen.emplace(layer.tensor, to_string(layer.format)).second;
    layers.push_back({.plan = &layer, .bytes = is_first ? layer.value_bytes() + layer.scale_bytes() : 0});
  }
  return layers;
}

std::string size_chart(const std::vector<SizedLayer>& layers) {
  struct Kind {
    std::int64_t bytes = 0;
    std::int64_t weights = 0;
    std::int64_t count = 0;
  };
  std::map<std::pair<std::string, std::string>, Kind> kinds;
  std::map<std::string, Style> styles;
  for (const SizedLayer& layer : layers) {
    const std::string format = to_string(layer.plan->format);
    Kind& kind = kinds[{kind_of(*layer.plan), format}];
    kind.bytes += layer.bytes;
    kind.weights += layer.plan->parameters();
    ++kind.count;
    styles[format] = style_of(layer.plan->format);
  }
  BarChart chart{.title = "Stored size of each kind of layer", .x_label = "MiB", .bars = {}};
  for (const auto& [key, kind] : kinds) {
    const double mib = to_mib(kind.bytes);
    chart.bars.push_back({.label = key.first,
                          .value = mib,
                          .text = kind.bytes == 0 ? "shared" : size_text(mib),
                          .style = styles.at(key.second),
                          .tooltip = key.first + ": " + std::to_string(kind.count) + " weights, " + key.second + ", " +
                                     size_text(mib) + " (" + size_text(to_mib(4 * kind.weights)) + " as FP32)"});
  }
  std::ranges::sort(chart.bars, [](const Bar& a, const Bar& b) {
    return a.value != b.value ? a.value > b.value : a.label < b.label;
  });
  // Norms and biases are many and tiny.
  constexpr double kTiny = 0.01;
  const double tiny = chart.bars.empty() ? 0.0 : kTiny * chart.bars.front().value;
  const auto first_tiny = std::ranges::find_if(chart.bars, [=](const Bar& bar) { return bar.value < tiny; });
  const auto count = chart.bars.end() - first_tiny;
  if (count > 1) {
    Bar rest{.label = std::to_string(count) + " small kinds"};
    for (auto bar = first_tiny; bar != chart.bars.end(); ++bar) {
      rest.value += bar->value;
      rest.tooltip += (rest.tooltip.empty() ? "" : "\n") + bar->tooltip;
    }
    rest.text = size_text(rest.value);
    chart.bars.erase(first_tiny, chart.bars.end());
    chart.bars.push_back(rest);
  }
  return bar_chart(chart);
}

std::string layer_size_chart(const std::vector<SizedLayer>& layers) {
  ColumnChart chart{.x_label = "block", .y_label = "stored (MiB)", .panels = {}, .reference = {}};
  for (const SizedLayer& layer : layers) {
    const LayerName name = parse_layer_name(layer.plan->layer);
    if (name.block && layer.plan->role == LayerRole::kLinear) {
      const double mib = to_mib(layer.bytes);
      chart.panel(name.kind).columns.push_back({.position = *name.block,
                                                .value = mib,
                                                .style = style_of(layer.plan->format),
                                                .tooltip = layer.plan->layer + ": " + to_string(layer.plan->format) +
                                                           ", " + (layer.bytes == 0 ? "shared" : size_text(mib))});
    }
  }
  const std::vector<std::string> uniform = chart.take_uniform_panels();
  if (chart.panels.empty()) {
    return {};
  }
  return column_chart(chart) + uniform_note(uniform);
}

std::string noise_chart(const std::vector<LayerNoise>& layers, const QuantizationPlan* plan) {
  std::map<std::string, const LayerPlan*> plans;
  if (plan != nullptr) {
    for (const LayerPlan& layer : plan->layers) {
      if (layer.role == LayerRole::kLinear) {
        plans[layer.layer] = &layer;
      }
    }
  }
  ColumnChart blocks{.x_label = "block", .y_label = "signal-to-noise (dB)", .panels = {}, .reference = {}};
  BarChart others{.title = "Outside the blocks", .x_label = "signal-to-noise ratio (dB)", .bars = {}};
  for (const LayerNoise& layer : layers) {
    const auto found = plans.find(layer.layer);
    const Style style = found == plans.end() ? Style::kGrey : style_of(found->second->format);
    const std::string format = found == plans.end() ? "as stored" : to_string(found->second->format);
    const std::string tooltip = layer.layer + ": " + decibels(layer.signal_to_noise_db) + ", " + format;
    const LayerName name = parse_layer_name(layer.layer);
    if (name.block) {
      blocks.panel(name.kind).columns.push_back(
          {.position = *name.block, .value = layer.signal_to_noise_db, .style = style, .tooltip = tooltip});
    } else {
      others.bars.push_back({.label = layer.layer,
                             .value = layer.signal_to_noise_db,
                             .text = decibels(layer.signal_to_noise_db),
                             .style = style,
                             .tooltip = tooltip});
    }
  }
  const std::string note = uniform_note(blocks.take_uniform_panels());
  return (blocks.panels.empty() ? std::string() : column_chart(blocks)) + note +
         (others.bars.empty() ? std::string() : bar_chart(others));
}

std::string rounding_chart(const std::vector<LayerRounding>& rounding) {
  ColumnChart blocks{
      .x_label = "block", .y_label = "error (% of round-to-nearest's)", .panels = {}, .reference = 100.0};
  BarChart others{.title = "Outside the blocks", .x_label = "error (% of round-to-nearest's)", .bars = {}};
  std::map<RoundingMethod, int> methods;
  for (const LayerRounding& layer : rounding) {
    ++methods[layer.method];
    if (layer.nearest_error == 0.0) {
      continue;  // nothing was measured, or lost
    }
    const double share = 100.0 * layer.error / layer.nearest_error;
    const std::string method = std::string(to_string(layer.method)) + (layer.awq_scaled ? " after awq scaling" : "");
    const std::string tooltip =
        layer.layer + ": " + method + ", " + format_number(share, 1) + "% of the error of round-to-nearest";
    const LayerName name = parse_layer_name(layer.layer);
    if (name.block) {
      blocks.panel(name.kind).columns.push_back(
          {.position = *name.block, .value = share, .style = style_of(layer.method), .tooltip = tooltip});
    } else {
      others.bars.push_back({.label = layer.layer,
                             .value = share,
                             .text = format_number(share, 1) + "%",
                             .style = style_of(layer.method),
                             .tooltip = tooltip});
    }
  }
  std::vector<LegendEntry> entries;
  for (const auto& [method, count] : methods) {
    entries.push_back(
        {.name = std::string(to_string(method)) + " (" + std::to_string(count) + (count == 1 ? " layer)" : " layers)"),
         .style = style_of(method)});
  }
  return legend(entries, LegendMark::kArea) + column_chart(blocks) +
         (others.bars.empty() ? std::string() : bar_chart(others));
}

}  // namespace diffulex_edge
