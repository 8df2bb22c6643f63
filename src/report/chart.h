// Charts as inline SVG, for HtmlPage. Text keeps its size in pixels whatever the page's width: positions along the
// horizontal axis are percentages, so that a chart fits 300 pixels as well as 1200. Each mark has class "mark" and its
// tooltip. What is not finite is not drawn and counted under the chart.
#pragma once

#include <cstddef>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace diffulex_edge {

// A colour of the page, light and dark, that always comes with the same shape of a point and the same pattern of an
// area.
enum class Style { kGrey, kBlue, kGreen, kOrange, kPurple, kRed, kTeal };

struct LegendEntry {
  std::string name;
  Style style = Style::kGrey;
  bool is_hollow = false;  // a point's outline only
};
enum class LegendMark { kPoint, kArea };
std::string legend(const std::vector<LegendEntry>& entries, LegendMark mark);

struct ChartPoint {
  double x = 0.0;
  double y = 0.0;
  std::string label;    // beside the point; empty: none
  std::string tooltip;  // empty: the label and both values
};

struct ChartSeries {
  std::string name;
  Style style = Style::kGrey;
  bool is_line = false;  // points are joined in their order
  bool has_marks = true;
  std::vector<ChartPoint> points;
};

// Points and lines over two linear axes.
struct ScatterChart {
  std::string title;
  std::string x_label;  // with its unit
  std::string y_label;
  std::vector<ChartSeries> series;
  bool x_is_integer = false;
};
std::string scatter_chart(const ScatterChart& chart);
// Panels that share the vertical axis, so that they can be compared.
std::string scatter_charts(const std::vector<ScatterChart>& charts);

// Horizontal bars from 0, each under its label; one for each line of a list.
struct Bar {
  std::string label;
  double value = 0.0;
  std::string text;  // the value with its unit
  Style style = Style::kGrey;
  std::string tooltip;
};
struct BarChart {
  std::string title;
  std::string x_label;
  std::vector<Bar> bars;
};
std::string bar_chart(const BarChart& chart);

// Points with their intervals along a horizontal axis, a row for each under its label, in panels that share the axis. A
// dashed line marks 0.
struct IntervalRow {
  std::string label;
  double value = 0.0;
  // Drawn as a whisker where both are finite.
  double low = std::numeric_limits<double>::quiet_NaN();
  double high = std::numeric_limits<double>::quiet_NaN();
  std::string text;  // at the row's right end
  Style style = Style::kGrey;
  std::string tooltip;
  bool is_hollow = false;
};
struct IntervalPanel {
  std::string title;
  std::vector<IntervalRow> rows;
};
struct IntervalChart {
  std::string x_label;
  std::vector<IntervalPanel> panels;
  // The axis covers [-least_extent, least_extent] at least: differences that are small in practice look small.
  double least_extent = 0.0;
};
// The panels' figures, without a box around them.
std::string interval_chart(const IntervalChart& chart);

// Vertical bars by a position such as the layer's index, in panels that share their axes.
struct Column {
  std::int64_t position = 0;
  double value = 0.0;  // infinite: drawn to the top, hollow
  Style style = Style::kGrey;
  std::string tooltip;
};
struct ColumnPanel {
  std::string title;
  std::vector<Column> columns;
};
struct ColumnChart {
  std::string x_label;
  std::string y_label;
  std::vector<ColumnPanel> panels;
  std::optional<double> reference;  // a dashed line at this value

  // The panel of that title, made where there is none.
  ColumnPanel& panel(const std::string& panel_title);
  // Takes out the panels whose columns all look the same, and returns their titles: such a panel shows nothing.
  std::vector<std::string> take_uniform_panels();
};
std::string column_chart(const ColumnChart& chart);

// Spans of values by a position, several side by side, in panels that share the horizontal axis. Where spans differ by
// more than a factor of 20, the vertical axis is a symmetric logarithm.
struct RangeSpan {
  std::int64_t position = 0;
  double low = 0.0;
  double high = 0.0;
  std::string tooltip;
};
struct RangeSeries {
  Style style = Style::kGrey;
  std::vector<RangeSpan> spans;
};
struct RangePanel {
  std::string title;
  std::vector<RangeSeries> series;
  std::vector<RangeSpan> brackets;  // a line at both ends, across the position
};
struct RangeChart {
  std::string x_label;
  std::string y_label;
  std::vector<RangePanel> panels;
};
std::string range_chart(const RangeChart& chart);

}  // namespace diffulex_edge
