// Charts of what calibration saw of the layers' inputs.

#include <algorithm>
#include <cmath>

#include "report/chart.h"
#include "report/description.h"
#include "report/layer_charts.h"
#include "report/svg.h"
#include "report/text_table.h"

namespace diffulex_edge {
namespace {

constexpr Style kMasked = Style::kPurple;
constexpr Style kUnmasked = Style::kGrey;
constexpr Style kMaskedStatic = Style::kRed;
constexpr Style kUnmaskedStatic = Style::kTeal;

// Layers of one input: q, k and v, or gate and up.
struct Input {
  std::optional<std::int64_t> block;
  std::string kinds;
  const LayerStatistics* statistics = nullptr;
};

bool has_same_input(const LayerStatistics& a, const LayerStatistics& b) {
  return a.chosen.input == b.chosen.input && a.masked.range == b.masked.range && a.unmasked.range == b.unmasked.range &&
         a.masked.rms == b.masked.rms && a.unmasked.rms == b.unmasked.rms;
}

std::vector<Input> inputs_of(const std::vector<LayerStatistics>& statistics) {
  std::vector<Input> inputs;
  for (const LayerStatistics& layer : statistics) {
    const LayerName name = parse_layer_name(layer.layer);
    if (!inputs.empty() && inputs.back().block == name.block && has_same_input(*inputs.back().statistics, layer)) {
      inputs.back().kinds += ", " + name.kind;
    } else {
      inputs.push_back({.block = name.block, .kinds = name.kind, .statistics = &layer});
    }
  }
  return inputs;
}

// Inputs of one title, in the order of their first.
struct Panel {
  std::string kinds;
  bool in_blocks = true;
  std::vector<Input> inputs;
};

std::vector<Panel> panels_of(const std::vector<LayerStatistics>& statistics) {
  std::vector<Panel> panels;
  for (const Input& input : inputs_of(statistics)) {
    auto found = std::ranges::find(panels, input.kinds, &Panel::kinds);
    if (found == panels.end()) {
      panels.push_back({.kinds = input.kinds, .in_blocks = input.block.has_value(), .inputs = {}});
      found = std::prev(panels.end());
    }
    found->inputs.push_back(input);
  }
  return panels;
}

bool has_masked(const std::vector<LayerStatistics>& statistics) {
  return std::ranges::any_of(statistics,
                             [](const LayerStatistics& layer) { return layer.masked.range != ActivationRange(); });
}

std::string where(const Input& input) {
  return (input.block ? "block " + std::to_string(*input.block) + ", " : std::string()) + input.kinds;
}

RangeSpan span_of(const Input& input, const ValueStatistics& values, const std::string& kind) {
  return {.position = input.block.value_or(0),
          .low = values.range.min,
          .high = values.range.max,
          .tooltip = where(input) + ", " + kind + ": " + svg::number(values.range.min) + " to " +
                     svg::number(values.range.max) + ", rms " + svg::number(values.rms)};
}

RangePanel range_panel(const Panel& panel, bool with_masked) {
  RangeSeries masked{.style = kMasked, .spans = {}};
  RangeSeries unmasked{.style = kUnmasked, .spans = {}};
  RangePanel result{.title = "Input of " + panel.kinds, .series = {}, .brackets = {}};
  for (const Input& input : panel.inputs) {
    masked.spans.push_back(span_of(input, input.statistics->masked, "masked tokens"));
    unmasked.spans.push_back(span_of(input, input.statistics->unmasked, "unmasked tokens"));
    const ActivationRange& chosen = input.statistics->chosen.input;
    result.brackets.push_back(
        {.position = input.block.value_or(0), .low = chosen.min, .high = chosen.max, .tooltip = {}});
  }
  if (with_masked) {
    result.series.push_back(std::move(masked));
  }
  result.series.push_back(std::move(unmasked));
  return result;
}

ChartSeries noise_series(const Panel& panel, const std::string& name, Style style,
                         double (*value)(const LayerStatistics&)) {
  ChartSeries series{.name = name, .style = style, .is_line = true, .points = {}};
  for (const Input& input : panel.inputs) {
    const double decibels = value(*input.statistics);
    series.points.push_back({.x = static_cast<double>(input.block.value_or(0)),
                             .y = decibels,
                             .label = {},
                             .tooltip = where(input) + ", " + name + ": " + format_number(decibels, 1) + " dB"});
  }
  return series;
}

}  // namespace

std::string activation_range_chart(const std::vector<LayerStatistics>& statistics) {
  const bool with_masked = has_masked(statistics);
  RangeChart blocks{.x_label = "block", .y_label = "value", .panels = {}};
  RangeChart others{.x_label = {}, .y_label = "value", .panels = {}};
  for (const Panel& panel : panels_of(statistics)) {
    (panel.in_blocks ? blocks : others).panels.push_back(range_panel(panel, with_masked));
  }
  std::vector<LegendEntry> entries = {{.name = "unmasked tokens", .style = kUnmasked}};
  if (with_masked) {
    entries.insert(entries.begin(), {.name = "masked tokens", .style = kMasked});
  }
  return legend(entries, LegendMark::kArea) + range_chart(blocks) +
         (others.panels.empty() ? std::string() : range_chart(others));
}

std::string activation_noise_chart(const std::vector<LayerStatistics>& statistics) {
  const bool with_masked = has_masked(statistics);
  std::vector<LegendEntry> entries;
  std::vector<ScatterChart> charts;
  for (const Panel& panel : panels_of(statistics)) {
    ScatterChart chart{.title = "Input of " + panel.kinds,
                       .x_label = panel.in_blocks ? "block" : "",
                       .y_label = "signal-to-noise in 8 bits (dB)",
                       .series = {},
                       .x_is_integer = true};
    if (with_masked) {
      chart.series.push_back(noise_series(panel, "masked, scale per token", kMasked,
                                          [](const LayerStatistics& layer) { return layer.masked.token_scales_db; }));
      chart.series.push_back(noise_series(panel, "masked, static scale", kMaskedStatic,
                                          [](const LayerStatistics& layer) { return layer.masked.static_scale_db; }));
    }
    chart.series.push_back(noise_series(panel, "unmasked, scale per token", kUnmasked,
                                        [](const LayerStatistics& layer) { return layer.unmasked.token_scales_db; }));
    chart.series.push_back(noise_series(panel, "unmasked, static scale", kUnmaskedStatic,
                                        [](const LayerStatistics& layer) { return layer.unmasked.static_scale_db; }));
    entries.clear();
    for (const ChartSeries& series : chart.series) {
      entries.push_back({.name = series.name, .style = series.style});
    }
    charts.push_back(std::move(chart));
  }
  return legend(entries, LegendMark::kPoint) + "<div class=\"panels wide\">" + scatter_charts(charts) + "</div>";
}

}  // namespace diffulex_edge
