// Horizontal bars under their labels.

#include <algorithm>
#include <cmath>

#include "report/chart.h"
#include "report/svg.h"

namespace diffulex_edge {
namespace {

constexpr double kRow = 40.0;
constexpr double kBar = 16.0;
constexpr std::size_t kBarLabelLength = 28;

}  // namespace

std::string bar_chart(const BarChart& chart) {
  double least = 0.0;
  double most = 0.0;
  std::size_t hidden = 0;
  for (const Bar& bar : chart.bars) {
    if (std::isfinite(bar.value)) {
      least = std::min(least, bar.value);
      most = std::max(most, bar.value);
    } else {
      ++hidden;
    }
  }
  const svg::Axis axis = svg::Axis::to_ticks(least, least == most ? 1.0 : most, 5);
  const double height = kRow * static_cast<double>(std::max<std::size_t>(chart.bars.size(), 1)) + 4.0;
  std::string drawing;
  for (const svg::Tick& tick : axis.ticks()) {
    const std::string x = svg::percent(axis.at(tick.value));
    drawing += svg::line(x, 0.0, x, height, tick.value == 0.0 ? "axis" : "grid");
  }
  drawing += svg::x_axis(axis, height, chart.x_label);
  double top = 4.0;
  for (const Bar& bar : chart.bars) {
    drawing += svg::text("2", top + 12.0, "bar-label", svg::shorten(bar.label, kBarLabelLength));
    drawing += svg::text("100%", top + 12.0, "tick end", bar.text);
    if (std::isfinite(bar.value)) {
      const double begin = std::min(axis.at(0.0), axis.at(bar.value));
      const double width = std::fabs(axis.at(bar.value) - axis.at(0.0));
      drawing += svg::area(begin, std::max(width, 0.002), top + 17.0, kBar, bar.style,
                           bar.tooltip.empty() ? bar.label + ": " + bar.text : bar.tooltip);
    }
    top += kRow;
  }
  if (chart.bars.empty()) {
    drawing += svg::text("50%", height / 2.0, "label middle", "no data");
  }
  return svg::figure(chart.title, {}, drawing, height, svg::not_drawn(hidden));
}

}  // namespace diffulex_edge
