// Points with their intervals, one under the other, in panels of one scale.

#include <algorithm>
#include <cmath>

#include "report/chart.h"
#include "report/svg.h"

namespace diffulex_edge {
namespace {

// Rows are as high as those of a bar chart, so that the two can stand side by side.
constexpr double kIntervalRow = 40.0;
constexpr double kPointAt = 25.0;  // below the row's top
constexpr double kCap = 4.0;       // half of a whisker's end
constexpr std::size_t kRowLabelLength = 24;
constexpr int kTicks = 4;  // steps, at most: numbers stay apart on a phone

svg::Axis axis_of(const IntervalChart& chart) {
  double low = -chart.least_extent;
  double high = chart.least_extent;
  for (const IntervalPanel& panel : chart.panels) {
    for (const IntervalRow& row : panel.rows) {
      for (const double value : {row.value, row.low, row.high}) {
        if (std::isfinite(value)) {
          low = std::min(low, value);
          high = std::max(high, value);
        }
      }
    }
  }
  return svg::Axis::linear(low, high, kTicks);
}

std::string draw_row(const IntervalRow& row, const svg::Axis& axis, double top) {
  std::string drawing = svg::text("2", top + 12.0, "bar-label", svg::shorten(row.label, kRowLabelLength)) +
                        svg::text("100%", top + 12.0, "tick end", row.text);
  const double y = top + kPointAt;
  const bool has_interval = std::isfinite(row.low) && std::isfinite(row.high);
  if (has_interval) {
    const std::string whisker = "whisker " + svg::style_class(row.style);
    const std::string low = svg::percent(axis.at(row.low));
    const std::string high = svg::percent(axis.at(row.high));
    drawing += svg::line(low, y, high, y, whisker);
    drawing += svg::line(low, y - kCap, low, y + kCap, whisker);
    drawing += svg::line(high, y - kCap, high, y + kCap, whisker);
  }
  return drawing + svg::point(axis.at(row.value), y, row.style, row.tooltip, row.is_hollow);
}

}  // namespace

std::string interval_chart(const IntervalChart& chart) {
  const svg::Axis axis = axis_of(chart);
  std::string html;
  for (const IntervalPanel& panel : chart.panels) {
    const double height = kIntervalRow * static_cast<double>(std::max<std::size_t>(panel.rows.size(), 1)) + 4.0;
    std::string drawing;
    for (const svg::Tick& tick : axis.ticks()) {
      const std::string x = svg::percent(axis.at(tick.value));
      drawing += svg::line(x, 0.0, x, height, tick.value == 0.0 ? "reference" : "grid");
    }
    drawing += svg::x_axis(axis, height, chart.x_label);
    std::size_t hidden = 0;
    double top = 4.0;
    for (const IntervalRow& row : panel.rows) {
      if (std::isfinite(row.value)) {
        drawing += draw_row(row, axis, top);
        top += kIntervalRow;
      } else {
        ++hidden;
      }
    }
    if (panel.rows.empty()) {
      drawing += svg::text("50%", height / 2.0, "label middle", "no data");
    }
    html += svg::figure(panel.title, {}, drawing, height, svg::not_drawn(hidden));
  }
  return html;
}

}  // namespace diffulex_edge
