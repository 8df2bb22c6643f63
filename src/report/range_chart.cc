// Spans of values side by side, in panels that share the horizontal axis.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "report/chart.h"
#include "report/svg.h"

namespace diffulex_edge {
namespace {

constexpr double kRangeHeight = 200.0;
constexpr double kLogarithmicFrom = 20.0;  // the largest span over the smallest

bool is_finite(const RangeSpan& span) { return std::isfinite(span.low) && std::isfinite(span.high); }

struct Positions {
  std::int64_t first = std::numeric_limits<std::int64_t>::max();
  std::int64_t last = std::numeric_limits<std::int64_t>::min();
};

Positions positions_of(const RangeChart& chart) {
  Positions positions;
  for (const RangePanel& panel : chart.panels) {
    for (const RangeSeries& series : panel.series) {
      for (const RangeSpan& span : series.spans) {
        positions.first = std::min(positions.first, span.position);
        positions.last = std::max(positions.last, span.position);
      }
    }
  }
  return positions.first > positions.last ? Positions{.first = 0, .last = 0} : positions;
}

svg::Axis value_axis(const RangePanel& panel) {
  double low = 0.0;
  double high = 0.0;
  double smallest = std::numeric_limits<double>::infinity();
  double largest = 0.0;
  const auto add = [&](const RangeSpan& span) {
    if (is_finite(span)) {
      low = std::min(low, span.low);
      high = std::max(high, span.high);
      const double size = std::max(std::fabs(span.low), std::fabs(span.high));
      if (size > 0.0) {
        smallest = std::min(smallest, size);
        largest = std::max(largest, size);
      }
    }
  };
  for (const RangeSeries& series : panel.series) {
    std::ranges::for_each(series.spans, add);
  }
  std::ranges::for_each(panel.brackets, add);
  if (largest > kLogarithmicFrom * smallest) {
    return svg::Axis::symmetric_log(low, high, std::pow(10.0, std::floor(std::log10(smallest))));
  }
  return svg::Axis::to_ticks(low, low == high ? 1.0 : high, 5);
}

std::string draw_panel(const RangePanel& panel, const svg::Axis& x, const svg::Axis& y) {
  const double slot = x.at(1.0) - x.at(0.0);
  const auto count = static_cast<double>(std::max<std::size_t>(panel.series.size(), 1));
  const double width = std::min(0.8 * slot, 0.16) / count;
  std::string drawing;
  for (std::size_t i = 0; i < panel.series.size(); ++i) {
    for (const RangeSpan& span : panel.series[i].spans) {
      if (is_finite(span)) {
        const double left = x.at(static_cast<double>(span.position)) + (static_cast<double>(i) - count / 2.0) * width;
        const double top = svg::y_at(y, kRangeHeight, span.high);
        drawing += svg::area(left, 0.94 * width, top, svg::y_at(y, kRangeHeight, span.low) - top, panel.series[i].style,
                             span.tooltip);
      }
    }
  }
  for (const RangeSpan& bracket : panel.brackets) {
    if (is_finite(bracket)) {
      const double center = x.at(static_cast<double>(bracket.position));
      const double half = 0.5 * std::min(slot, 0.2);
      for (const double value : {bracket.low, bracket.high}) {
        const double at = svg::y_at(y, kRangeHeight, value);
        drawing += svg::line(svg::percent(center - half), at, svg::percent(center + half), at, "bracket");
      }
    }
  }
  return drawing;
}

std::size_t count_hidden(const RangePanel& panel) {
  std::size_t hidden = 0;
  for (const RangeSeries& series : panel.series) {
    hidden += static_cast<std::size_t>(
        std::ranges::count_if(series.spans, [](const RangeSpan& span) { return !is_finite(span); }));
  }
  return hidden;
}

}  // namespace

std::string range_chart(const RangeChart& chart) {
  const Positions positions = positions_of(chart);
  const svg::Axis x = svg::Axis::integers(positions.first, positions.last, 8);
  std::string html = "<div class=\"panels\">";
  for (const RangePanel& panel : chart.panels) {
    const svg::Axis y = value_axis(panel);
    const std::string drawing =
        svg::y_axis(y, kRangeHeight) + svg::x_axis(x, kRangeHeight, chart.x_label) + draw_panel(panel, x, y);
    const std::string y_label = chart.y_label + (y.is_logarithmic() ? ", logarithmic on both sides of 0" : "");
    html += svg::figure(panel.title, y_label, drawing, kRangeHeight, svg::not_drawn(count_hidden(panel)));
  }
  return html + "</div>";
}

}  // namespace diffulex_edge
