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
};
enum class LegendMark { kPoint, kArea };
std::string legend(const std::vector<LegendEntry>& entries, LegendMark mark);

struct ChartPoint {
  double x = 0.0;
  double y = 0.0;
  std::string label;    // beside the point; empty: none
  std::string tooltip;  // empty: the label and both values
  // An interval of y, drawn as a whisker where both are finite.
  double low = std::numeric_limits<double>::quiet_NaN();
  double high = std::numeric_limits<double>::quiet_NaN();
};

struct ChartSeries {
  std::string name;
  Style style = Style::kGrey;
  bool is_line = false;  // points are joined in their order
  bool has_marks = true;
  std::vector<ChartPoint> points;
};

struct ReferenceLine {
  double y = 0.0;
  std::string label;
};

// Points and lines over two linear axes.
struct ScatterChart {
  std::string title;
  std::string x_label;  // with its unit
  std::string y_label;
  std::vector<ChartSeries> series;
  std::optional<ReferenceLine> reference;
  bool x_is_integer = false;
};
std::string scatter_chart(const ScatterChart& chart);

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
  std::optional<ReferenceLine> reference;

  // The panel of that title, made where there is none.
  ColumnPanel& panel(const std::string& panel_title);
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
