// Points and lines, with labels that keep out of each other's way.

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <tuple>

#include "report/chart.h"
#include "report/svg.h"

namespace diffulex_edge {
namespace {

constexpr double kScatterHeight = 240.0;
constexpr double kLetter = 7.2;  // of a label, in pixels, at most on average
constexpr double kLineHeight = 15.0;
constexpr double kGap = 10.0;  // from a point's centre to its label
constexpr double kMarkRadius = 8.0;
constexpr double kLineRadius = 4.0;
constexpr std::size_t kPointLabelLength = 24;
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
struct LabelPlace {
  Side side = Side::kRight;
  double down = 0.0;
};

struct Label {
  double x = 0.0;  // the point's: a share of the plot's width
  double y = 0.0;  // in pixels
  std::string text;
  std::optional<LabelPlace> placement;
};

Box box_of(const Label& label, const LabelPlace& placement, double plot_width) {
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
         std::max(0.0, box.bottom - kScatterHeight);
}

std::vector<LabelPlace> label_places() {
  std::vector<LabelPlace> all = {{Side::kRight, 0.0}, {Side::kLeft, 0.0}};
  for (const double step : {1.2, 2.3, 3.4, 4.5, 5.6, 6.7, 7.8}) {
    for (const double direction : {-1.0, 1.0}) {
      for (const Side side : {Side::kMiddle, Side::kRight, Side::kLeft}) {
        all.push_back({side, direction * step * kLineHeight});
      }
    }
  }
  return all;
}

// A place that labels keep clear of: a point, or one of those along a line.
struct Obstacle {
  double x = 0.0;  // a share of the plot's width
  double y = 0.0;  // in pixels
  double radius = 0.0;
};

// Along the line between two points.
void add_line(std::vector<Obstacle>& obstacles, const Obstacle& from, const Obstacle& to) {
  constexpr int kSteps = 12;
  for (int i = 1; i < kSteps; ++i) {
    const double share = static_cast<double>(i) / kSteps;
    obstacles.push_back(
        {.x = std::lerp(from.x, to.x, share), .y = std::lerp(from.y, to.y, share), .radius = kLineRadius});
  }
}

// What a place costs: its distance from the point, and its overlap with obstacles and the other labels at all widths.
double cost_of(const std::vector<Label>& labels, std::size_t index, const LabelPlace& choice,
               const std::vector<Obstacle>& obstacles) {
  double cost = kDistanceCost * std::fabs(choice.down);
  for (const double width : kWidths) {
    const Box box = box_of(labels[index], choice, width);
    cost += 1000.0 * outside(box, width);
    for (const Obstacle& obstacle : obstacles) {
      const double x = obstacle.x * width;
      const double radius = obstacle.radius;
      cost += radius * overlap(box, {x - radius, obstacle.y - radius, x + radius, obstacle.y + radius});
    }
    for (std::size_t other = 0; other < labels.size(); ++other) {
      const std::optional<LabelPlace>& taken = labels[other].placement;
      if (other != index && taken) {
        cost += kMarkRadius * overlap(box, box_of(labels[other], *taken, width));
      }
    }
  }
  return cost;
}

// Each label takes the cheapest place beside those that have one, some times over, since a label that came first may
// be in the way of one that has fewer choices.
void place(std::vector<Label>& labels, const std::vector<Obstacle>& obstacles) {
  constexpr int kRounds = 4;
  // From the top, so that lines to labels do not cross.
  std::ranges::sort(
      labels, [](const Label& a, const Label& b) { return std::tie(a.y, a.x, a.text) < std::tie(b.y, b.x, b.text); });
  const std::vector<LabelPlace> choices = label_places();
  for (int round = 0; round < kRounds; ++round) {
    for (std::size_t i = 0; i < labels.size(); ++i) {
      labels[i].placement = *std::ranges::min_element(
          choices, {}, [&](const LabelPlace& choice) { return cost_of(labels, i, choice, obstacles); });
    }
  }
}

std::string draw_label(const Label& label) {
  const LabelPlace placement = label.placement.value_or(LabelPlace());
  const double down = placement.down;
  std::string drawing = "<svg class=\"at\" x=\"" + svg::percent(label.x) + "\" y=\"" + svg::pixels(label.y) + "\">";
  double x = kGap;
  std::string anchor = "start";
  if (placement.side == Side::kLeft) {
    x = -kGap;
    anchor = "end";
  } else if (placement.side == Side::kMiddle) {
    x = 0.0;
    anchor = "middle";
  }
  if (std::fabs(down) > 1.3 * kLineHeight) {
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
    const double at_y = svg::y_at(y, kScatterHeight, point.y);
    if (series.is_line && last != nullptr) {
      lines += svg::line(svg::percent(x.at(last->x)), svg::y_at(y, kScatterHeight, last->y), svg::percent(at_x), at_y,
                         "series " + style);
    }
    last = &point;
    if (series.has_marks) {
      const std::string tooltip = point.tooltip.empty()
                                      ? point.label + " (" + svg::number(point.x) + ", " + svg::number(point.y) + ")"
                                      : point.tooltip;
      marks += svg::point(at_x, at_y, series.style, tooltip);
    }
  }
  return lines + (series.is_line ? "<g class=\"small\">" + marks + "</g>" : marks);
}

struct Extents {
  Extent x;
  Extent y;
};

Extents extents_of(const ScatterChart& chart) {
  Extents extents;
  for (const ChartSeries& series : chart.series) {
    for (const ChartPoint& point : series.points) {
      if (is_finite(point)) {
        extents.x.add(point.x);
        extents.y.add(point.y);
      }
    }
  }
  return extents;
}

struct Marks {
  std::vector<Label> labels;
  std::vector<Obstacle> obstacles;
  std::size_t count = 0;
  std::size_t hidden = 0;  // not finite
};

Marks marks_of(const ScatterChart& chart, const svg::Axis& x, const svg::Axis& y) {
  Marks marks;
  for (const ChartSeries& series : chart.series) {
    std::optional<Obstacle> last;
    for (const ChartPoint& point : series.points) {
      if (!is_finite(point)) {
        ++marks.hidden;
        last.reset();
        continue;
      }
      ++marks.count;
      const Obstacle at{.x = x.at(point.x),
                        .y = svg::y_at(y, kScatterHeight, point.y),
                        .radius = series.has_marks ? kMarkRadius : kLineRadius};
      marks.obstacles.push_back(at);
      if (series.is_line && last) {
        add_line(marks.obstacles, *last, at);
      }
      last = at;
      if (!point.label.empty()) {
        marks.labels.push_back(
            {.x = at.x, .y = at.y, .text = svg::shorten(point.label, kPointLabelLength), .placement = {}});
      }
    }
  }
  return marks;
}

std::string draw_chart(const ScatterChart& chart, const svg::Axis& y) {
  const Extent extent = extents_of(chart).x;
  const bool has_integers = chart.x_is_integer && std::isfinite(extent.low);
  const svg::Axis x = has_integers ? svg::Axis::integers(static_cast<std::int64_t>(extent.low),
                                                         static_cast<std::int64_t>(extent.high), 6)
                                   : svg::Axis::linear(extent.low, extent.high, 5);
  std::string drawing = svg::y_axis(y, kScatterHeight) + svg::x_axis(x, kScatterHeight, chart.x_label);
  for (const ChartSeries& series : chart.series) {
    drawing += draw_series(series, x, y);
  }
  Marks marks = marks_of(chart, x, y);
  place(marks.labels, marks.obstacles);
  for (const Label& label : marks.labels) {
    drawing += draw_label(label);
  }
  if (marks.count == 0) {
    drawing += svg::text("50%", kScatterHeight / 2.0, "label middle", "no data");
  }
  return svg::figure(chart.title, chart.y_label, drawing, kScatterHeight, svg::not_drawn(marks.hidden));
}

}  // namespace

std::string scatter_chart(const ScatterChart& chart) { return scatter_charts({chart}); }

std::string scatter_charts(const std::vector<ScatterChart>& charts) {
  Extent extent;
  for (const ScatterChart& chart : charts) {
    const Extent own = extents_of(chart).y;
    extent.add(own.low);
    extent.add(own.high);
  }
  const svg::Axis y = svg::Axis::linear(extent.low, extent.high, 5);
  std::string html;
  for (const ScatterChart& chart : charts) {
    html += draw_chart(chart, y);
  }
  return html;
}

}  // namespace diffulex_edge
