// Points and lines, with labels that keep out of each other's way.

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>

#include "report/chart.h"
#include "report/svg.h"

namespace diffulex_edge {
namespace {

constexpr double kHeight = 240.0;
constexpr double kLetter = 7.2;  // of a label, in pixels, at most on average
constexpr double kLineHeight = 15.0;
constexpr double kGap = 10.0;  // from a point's centre to its label
constexpr double kMarkRadius = 8.0;
constexpr std::size_t kLabelLength = 24;
constexpr double kDistanceCost = 3.0;  // of a pixel away from the point, against square pixels of overlap
// Widths of the plot, in pixels, in which labels must not overlap: phones to desktops.
constexpr std::array kWidths = {270.0, 340.0, 480.0, 760.0, 1100.0};

struct Box {
  double left = 0.0;
  double top = 0.0;
  double right = 0.0;
  double bottom = 0.0;
};

double overlap(const Box& a, const Box& b) {
  const double width = std::min(a.right, b.right) - std::max(a.left, b.left);
  const double height = std::min(a.bottom, b.bottom) - std::max(a.top, b.top);
  return width > 0.0 && height > 0.0 ? width * height : 0.0;
}

enum class Side { kRight, kLeft, kMiddle };

// Where a label lies: beside its point, and so many pixels lower.
struct Placement {
  Side side = Side::kRight;
  double down = 0.0;
};

struct Label {
  double x = 0.0;  // the point's: a share of the plot's width
  double y = 0.0;  // in pixels
  std::string text;
  Placement placement;
};

Box box_of(const Label& label, const Placement& placement, double plot_width) {
  const double width = kLetter * static_cast<double>(svg::characters(label.text));
  const double x = label.x * plot_width;
  double left = x + kGap;
  if (placement.side == Side::kLeft) {
    left = x - kGap - width;
  } else if (placement.side == Side::kMiddle) {
    left = x - width / 2.0;
  }
  const double middle = label.y + placement.down;
  return {left, middle - kLineHeight / 2.0, left + width, middle + kLineHeight / 2.0};
}

double outside(const Box& box, double width) {
  return std::max(0.0, -box.left) + std::max(0.0, box.right - width) + std::max(0.0, -box.top) +
         std::max(0.0, box.bottom - kHeight);
}

std::vector<Placement> placements() {
  std::vector<Placement> all = {{Side::kRight, 0.0}, {Side::kLeft, 0.0}};
  for (const double step : {1.2, 2.3, 3.4, 4.5, 5.6, 6.7, 7.8}) {
    for (const double direction : {-1.0, 1.0}) {
      for (const Side side : {Side::kMiddle, Side::kRight, Side::kLeft}) {
        all.push_back({side, direction * step * kLineHeight});
      }
    }
  }
  return all;
}

// Each label in turn takes the place with the least overlap with marks and labels at all widths, near its point.
void place(std::vector<Label>& labels, const std::vector<Label>& marks, std::optional<double> line) {
  // From the top, so that lines to labels do not cross.
  std::ranges::sort(
      labels, [](const Label& a, const Label& b) { return std::tie(a.y, a.x, a.text) < std::tie(b.y, b.x, b.text); });
  const std::vector<Placement> choices = placements();
  for (std::size_t i = 0; i < labels.size(); ++i) {
    double least = std::numeric_limits<double>::infinity();
    for (const Placement& choice : choices) {
      double cost = kDistanceCost * std::fabs(choice.down);
      for (const double width : kWidths) {
        const Box box = box_of(labels[i], choice, width);
        cost += 1000.0 * outside(box, width);
        for (const Label& mark : marks) {
          const double x = mark.x * width;
          cost += overlap(box, {x - kMarkRadius, mark.y - kMarkRadius, x + kMarkRadius, mark.y + kMarkRadius});
        }
        if (line) {
          cost += overlap(box, {0.0, *line - 1.0, width, *line + 1.0});
        }
        for (std::size_t other = 0; other < i; ++other) {
          cost += 4.0 * overlap(box, box_of(labels[other], labels[other].placement, width));
        }
      }
      if (cost < least) {
        least = cost;
        labels[i].placement = choice;
      }
    }
  }
}

std::string draw_label(const Label& label) {
  const double down = label.placement.down;
  std::string drawing = "<svg class=\"at\" x=\"" + svg::percent(label.x) + "\" y=\"" + svg::pixels(label.y) + "\">";
  double x = kGap;
  std::string anchor = "start";
  if (label.placement.side == Side::kLeft) {
    x = -kGap;
    anchor = "end";
  } else if (label.placement.side == Side::kMiddle) {
    x = 0.0;
    anchor = "middle";
  }
  if (std::fabs(down) > 1.5 * kLineHeight) {
    const double end = down + (down > 0.0 ? -0.5 : 0.5) * kLineHeight;
    drawing += svg::line("0", down > 0.0 ? kMarkRadius : -kMarkRadius, svg::pixels(x), end, "leader");
  }
  return drawing + svg::text(svg::pixels(x), down + 4.5, "point-label " + anchor, label.text) + "</svg>";
}

bool is_finite(const ChartPoint& point) { return std::isfinite(point.x) && std::isfinite(point.y); }

struct Extent {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void add(double value) {
    if (std::isfinite(value)) {
      low = std::min(low, value);
      high = std::max(high, value);
    }
  }
};

std::string draw_series(const ChartSeries& series, const svg::Axis& x, const svg::Axis& y) {
  std::string lines;
  std::string marks;
  const ChartPoint* last = nullptr;
  const std::string style = svg::style_class(series.style);
  for (const ChartPoint& point : series.points) {
    if (!is_finite(point)) {
      last = nullptr;
      continue;
    }
    const double at_x = x.at(point.x);
    const double at_y = svg::y_at(y, kHeight, point.y);
    if (series.is_line && last != nullptr) {
      lines += svg::line(svg::percent(x.at(last->x)), svg::y_at(y, kHeight, last->y), svg::percent(at_x), at_y,
                         "series " + style);
    }
    last = &point;
    if (std::isfinite(point.low) && std::isfinite(point.high)) {
      const std::string place = svg::percent(at_x);
      lines += svg::line(place, svg::y_at(y, kHeight, point.low), place, svg::y_at(y, kHeight, point.high),
                         "whisker " + style);
    }
    if (series.has_marks) {
      const std::string tooltip = point.tooltip.empty()
                                      ? point.label + " (" + svg::number(point.x) + ", " + svg::number(point.y) + ")"
                                      : point.tooltip;
      marks += svg::point(at_x, at_y, series.style, tooltip);
    }
  }
  return lines + (series.is_line ? "<g class=\"small\">" + marks + "</g>" : marks);
}

}  // namespace

std::string scatter_chart(const ScatterChart& chart) {
  Extent x_extent;
  Extent y_extent;
  std::size_t hidden = 0;
  for (const ChartSeries& series : chart.series) {
    for (const ChartPoint& point : series.points) {
      if (!is_finite(point)) {
        ++hidden;
        continue;
      }
      x_extent.add(point.x);
      for (const double value : {point.y, point.low, point.high}) {
        y_extent.add(value);
      }
    }
  }
  if (chart.reference) {
    y_extent.add(chart.reference->y);
  }
  const bool has_integers = chart.x_is_integer && std::isfinite(x_extent.low);
  const svg::Axis x = has_integers ? svg::Axis::integers(static_cast<std::int64_t>(x_extent.low),
                                                         static_cast<std::int64_t>(x_extent.high), 6)
                                   : svg::Axis::linear(x_extent.low, x_extent.high, 5);
  const svg::Axis y = svg::Axis::linear(y_extent.low, y_extent.high, 5);
  std::vector<Label> labels;
  std::vector<Label> marks;
  std::optional<double> line;
  std::string drawing = svg::y_axis(y, kHeight) + svg::x_axis(x, kHeight, chart.x_label);
  if (chart.reference && std::isfinite(chart.reference->y)) {
    const double at = svg::y_at(y, kHeight, chart.reference->y);
    line = at;
    drawing += svg::line("0", at, "100%", at, "reference");
    drawing += svg::text("100%", at > kHeight - 20.0 ? at - 6.0 : at + 16.0, "tick end", chart.reference->label);
  }
  for (const ChartSeries& series : chart.series) {
    for (const ChartPoint& point : series.points) {
      if (is_finite(point)) {
        const Label label{.x = x.at(point.x),
                          .y = svg::y_at(y, kHeight, point.y),
                          .text = svg::shorten(point.label, kLabelLength),
                          .placement = {}};
        marks.push_back(label);
        if (!point.label.empty()) {
          labels.push_back(label);
        }
      }
    }
    drawing += draw_series(series, x, y);
  }
  place(labels, marks, line);
  for (const Label& label : labels) {
    drawing += draw_label(label);
  }
  if (marks.empty()) {
    drawing += svg::text("50%", kHeight / 2.0, "label middle", "no data");
  }
  return svg::figure(chart.title, chart.y_label, drawing, kHeight, svg::not_drawn(hidden));
}

}  // namespace diffulex_edge
