// Vertical bars in panels that share their axes.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "report/chart.h"
#include "report/svg.h"

namespace diffulex_edge {
namespace {

constexpr double kColumnHeight = 130.0;

struct ColumnExtent {
  std::int64_t first = 0;
  std::int64_t last = 0;
  double low = 0.0;
  double high = 0.0;
};

ColumnExtent extent_of(const ColumnChart& chart) {
  ColumnExtent extent{.first = std::numeric_limits<std::int64_t>::max(),
                      .last = std::numeric_limits<std::int64_t>::min()};
  for (const ColumnPanel& panel : chart.panels) {
    for (const Column& column : panel.columns) {
      extent.first = std::min(extent.first, column.position);
      extent.last = std::max(extent.last, column.position);
      if (std::isfinite(column.value)) {
        extent.low = std::min(extent.low, column.value);
        extent.high = std::max(extent.high, column.value);
      }
    }
  }
  if (extent.first > extent.last) {
    extent.first = extent.last = 0;
  }
  if (chart.reference && std::isfinite(*chart.reference)) {
    extent.low = std::min(extent.low, *chart.reference);
    extent.high = std::max(extent.high, *chart.reference);
  }
  if (extent.low == extent.high) {
    extent.high = extent.low + 1.0;
  }
  return extent;
}

std::string draw_column(const Column& column, const svg::Axis& x, const svg::Axis& y) {
  const auto position = static_cast<double>(column.position);
  const double slot = x.at(position + 0.5) - x.at(position - 0.5);
  const double width = std::min(0.76 * slot, 0.16);
  const double left = x.at(position) - width / 2.0;
  if (std::isinf(column.value) && column.value > 0.0) {
    return "<rect class=\"mark hollow " + svg::style_class(column.style) + "\" x=\"" + svg::percent(left) +
           "\" width=\"" + svg::percent(width) + "\" y=\"0\" height=\"" +
           svg::pixels(svg::y_at(y, kColumnHeight, 0.0)) + "\">" + svg::title(column.tooltip) + "</rect>";
  }
  const double base = svg::y_at(y, kColumnHeight, 0.0);
  const double end = svg::y_at(y, kColumnHeight, column.value);
  return svg::area(left, width, std::min(base, end), std::fabs(base - end), column.style, column.tooltip);
}

}  // namespace

ColumnPanel& ColumnChart::panel(const std::string& panel_title) {
  const auto found = std::ranges::find(panels, panel_title, &ColumnPanel::title);
  return found != panels.end() ? *found : panels.emplace_back(ColumnPanel{.title = panel_title, .columns = {}});
}

std::vector<std::string> ColumnChart::take_uniform_panels() {
  std::vector<std::string> titles;
  std::erase_if(panels, [&](const ColumnPanel& panel) {
    const bool is_uniform = std::ranges::all_of(panel.columns, [&](const Column& column) {
      return column.value == panel.columns[0].value && column.style == panel.columns[0].style;
    });
    if (is_uniform) {
      titles.push_back(panel.title);
    }
    return is_uniform;
  });
  return titles;
}

std::string column_chart(const ColumnChart& chart) {
  const ColumnExtent extent = extent_of(chart);
  const svg::Axis x = svg::Axis::integers(extent.first, extent.last, 8);
  const svg::Axis y = svg::Axis::to_ticks(extent.low, extent.high, 4);
  std::string html = "<div class=\"panels\">";
  for (const ColumnPanel& panel : chart.panels) {
    std::size_t hidden = 0;
    std::string drawing = svg::y_axis(y, kColumnHeight) + svg::x_axis(x, kColumnHeight, chart.x_label);
    for (const Column& column : panel.columns) {
      if (std::isnan(column.value) || (std::isinf(column.value) && column.value < 0.0)) {
        ++hidden;
      } else {
        drawing += draw_column(column, x, y);
      }
    }
    if (chart.reference && std::isfinite(*chart.reference)) {
      const double at = svg::y_at(y, kColumnHeight, *chart.reference);
      drawing += svg::line("0", at, "100%", at, "reference");
    }
    if (panel.columns.empty()) {
      drawing += svg::text("50%", kColumnHeight / 2.0, "label middle", "no data");
    }
    html += svg::figure(panel.title, chart.y_label, drawing, kColumnHeight, svg::not_drawn(hidden));
  }
  return html + "</div>";
}

}  // namespace diffulex_edge
