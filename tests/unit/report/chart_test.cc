#include "report/chart.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "report/svg.h"

namespace diffulex_edge {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) {
    ++found;
  }
  return found;
}

int marks(const std::string& html) { return count(html, "class=\"mark "); }

void expect_clean(const std::string& html) {
  EXPECT_EQ(html.find("nan"), std::string::npos) << html;
  EXPECT_EQ(html.find("inf"), std::string::npos) << html;
  for (const char* tag : {"svg", "g", "text", "figure", "div"}) {
    const std::string name(tag);
    EXPECT_EQ(count(html, "<" + name + ">") + count(html, "<" + name + " "), count(html, "</" + name + ">")) << name;
  }
}

ScatterChart scatter(std::vector<ChartPoint> points) {
  return {.title = "loss",
          .x_label = "MiB",
          .y_label = "nats",
          .series = {{.name = "a", .style = Style::kBlue, .points = std::move(points)}}};
}

TEST(ScatterChart, HasAMarkForEachPointAndItsLabels) {
  const std::string html = scatter_chart(scatter({{1.0, 2.0, "first"}, {2.0, 1.0, "second"}, {3.0, 4.0, ""}}));
  EXPECT_EQ(marks(html), 3);
  EXPECT_EQ(count(html, "point-label"), 2);
  EXPECT_NE(html.find("<title>first (1, 2)</title>"), std::string::npos);
  EXPECT_NE(html.find(">MiB</text>"), std::string::npos);
  EXPECT_NE(html.find("nats"), std::string::npos);
  expect_clean(html);
}

TEST(ScatterChart, LeavesOutWhatIsNotFiniteAndSaysSo) {
  const std::string html =
      scatter_chart(scatter({{1.0, 2.0, "a"}, {kNan, 2.0, "b"}, {1.0, kInfinity, "c"}, {2.0, 3.0, "d"}}));
  EXPECT_EQ(marks(html), 2);
  EXPECT_NE(html.find("2 values that are not finite are not drawn."), std::string::npos);
  expect_clean(html);
}

TEST(ScatterChart, TakesOnePointAndNone) {
  const std::string one = scatter_chart(scatter({{5.0, 0.0, "only"}}));
  EXPECT_EQ(marks(one), 1);
  EXPECT_NE(one.find("x=\"50.00%\""), std::string::npos);
  expect_clean(one);
  const std::string none = scatter_chart(scatter({}));
  EXPECT_EQ(marks(none), 0);
  EXPECT_NE(none.find("no data"), std::string::npos);
  expect_clean(none);
}

TEST(ScatterChart, EscapesTextAndShortensLongLabels) {
  const std::string name = "<script>&\"" + std::string(60, 'x');
  const std::string html = scatter_chart(scatter({{1.0, 2.0, name}}));
  EXPECT_EQ(html.find("<script>"), std::string::npos);
  EXPECT_NE(html.find("&lt;script&gt;&amp;&quot;"), std::string::npos);
  EXPECT_NE(html.find("…"), std::string::npos);
  EXPECT_NE(html.find("<title>&lt;script&gt;&amp;&quot;" + std::string(60, 'x')), std::string::npos);
}

TEST(ScatterChart, JoinsTheFinitePointsOfALine) {
  ScatterChart chart = scatter({{0.0, 1.0, ""}, {1.0, 2.0, ""}, {2.0, kNan, ""}, {3.0, 1.0, ""}, {4.0, 2.0, ""}});
  chart.series[0].is_line = true;
  chart.series[0].has_marks = false;
  const std::string html = scatter_chart(chart);
  EXPECT_EQ(count(html, "class=\"series s1\""), 2);
  EXPECT_EQ(marks(html), 0);
}

TEST(ScatterChart, KeepsLabelsOfEqualPointsApart) {
  const std::string html = scatter_chart(scatter({{1.0, 1.0, "a"}, {1.0, 1.0, "b"}, {1.0, 1.0, "c"}}));
  // Where each label lies from its point.
  std::vector<std::string> places;
  const std::string start = "<text x=\"";
  for (std::size_t at = html.find("point-label"); at != std::string::npos; at = html.find("point-label", at + 1)) {
    const std::size_t begin = html.rfind(start, at);
    places.push_back(html.substr(begin, at - begin));
  }
  ASSERT_EQ(places.size(), 3U);
  EXPECT_NE(places[0], places[1]);
  EXPECT_NE(places[1], places[2]);
  EXPECT_NE(places[0], places[2]);
}

// The numbers of the vertical axis.
std::vector<std::string> vertical_ticks(const std::string& figure) {
  std::vector<std::string> ticks;
  const std::string start = "<text x=\"-8\"";
  for (std::size_t at = figure.find(start); at != std::string::npos; at = figure.find(start, at + 1)) {
    const std::size_t begin = figure.find('>', at) + 1;
    ticks.push_back(figure.substr(begin, figure.find('<', begin) - begin));
  }
  return ticks;
}

TEST(ScatterCharts, ShareTheVerticalAxis) {
  const std::string html =
      scatter_charts({scatter({{0.0, 30.0, ""}, {1.0, 31.0, ""}}), scatter({{0.0, 5.0, ""}, {1.0, 40.0, ""}})});
  const std::size_t second = html.rfind("<figure");
  ASSERT_NE(second, 0U);
  EXPECT_EQ(vertical_ticks(html.substr(0, second)), vertical_ticks(html.substr(second)));
  EXPECT_FALSE(vertical_ticks(html).empty());
  EXPECT_EQ(scatter_charts({}), "");
}

TEST(ScatterChart, KeepsLabelsOffItsLines) {
  // A line from corner to corner: the label of its first point has no place at the right on the same height.
  ScatterChart chart = scatter({{0.0, 1.0, "first point"}, {1.0, 1.0, ""}, {2.0, 2.0, ""}, {3.0, 0.0, ""}});
  chart.series[0].is_line = true;
  const std::string html = scatter_chart(chart);
  const std::size_t label = html.find("point-label");
  const std::size_t text = html.rfind("<text", label);
  EXPECT_EQ(html.substr(text, label - text).find("y=\"4.5\""), std::string::npos);
}

IntervalRow row(double value, double low, double high) {
  return {.label = "int4", .value = value, .low = low, .high = high, .text = "t", .style = Style::kOrange};
}

TEST(IntervalChart, HasAWhiskerOnEveryPoint) {
  const std::string html = interval_chart(
      {.x_label = "nats",
       .panels = {{.title = "a", .rows = {row(0.01, -0.01, 0.03), row(0.02, 0.01, 0.03), row(-0.02, -0.03, -0.01)}}}});
  EXPECT_EQ(marks(html), 3);
  EXPECT_EQ(count(html, "mark point outline"), 0);
  EXPECT_EQ(count(html, "class=\"whisker s3\""), 3 * 3);  // the line and its two ends
  EXPECT_EQ(count(html, "class=\"reference\""), 1);
  expect_clean(html);
}

TEST(IntervalChart, DrawsOutlinesWhereItIsTold) {
  IntervalRow hollow = row(0.01, -0.01, 0.03);
  hollow.is_hollow = true;
  const std::string html = interval_chart({.x_label = "nats", .panels = {{.title = "a", .rows = {hollow}}}});
  EXPECT_EQ(count(html, "mark point outline"), 1);
}

// Where each point stands, in the order of the page.
std::vector<std::string> places(const std::string& html) {
  std::vector<std::string> found;
  for (std::size_t at = html.find("mark point"); at != std::string::npos; at = html.find("mark point", at + 1)) {
    const std::size_t begin = html.find("x=\"", at) + 3;
    found.push_back(html.substr(begin, html.find('"', begin) - begin));
  }
  return found;
}

TEST(IntervalChart, HasOneScaleForAllPanels) {
  const IntervalPanel narrow{.title = "a", .rows = {row(0.001, -0.001, 0.003)}};
  const IntervalPanel wide{.title = "b", .rows = {row(0.001, -0.4, 0.5)}};
  const std::vector<std::string> alone = places(interval_chart({.x_label = "nats", .panels = {narrow}}));
  const std::vector<std::string> beside = places(interval_chart({.x_label = "nats", .panels = {narrow, wide}}));
  ASSERT_EQ(beside.size(), 2U);
  EXPECT_EQ(beside[0], beside[1]);
  EXPECT_NE(alone[0], beside[0]);
}

TEST(IntervalChart, ShowsSmallDifferencesSmall) {
  const IntervalChart chart{
      .x_label = "nats", .panels = {{.title = "a", .rows = {row(0.0001, 0.00005, 0.00015)}}}, .least_extent = 0.01};
  const std::vector<std::string> point = places(interval_chart(chart));
  EXPECT_NEAR(std::stod(point.at(0)), 50.0, 1.0);
}

TEST(IntervalChart, DoesWithoutIntervalsAndRows) {
  const std::string html =
      interval_chart({.x_label = "nats",
                      .panels = {{.title = "a", .rows = {row(0.5, -kInfinity, kInfinity), row(kNan, 0, 1)}},
                                 {.title = "b", .rows = {}}},
                      .least_extent = 0.01});
  EXPECT_EQ(marks(html), 1);
  EXPECT_EQ(count(html, "outline"), 0);
  EXPECT_EQ(count(html, "whisker"), 0);
  EXPECT_NE(html.find("1 value that is not finite is not drawn."), std::string::npos);
  EXPECT_NE(html.find("no data"), std::string::npos);
  expect_clean(html);
}

TEST(BarChart, HasABarForEachFiniteValue) {
  const std::string html = bar_chart({.title = "sizes",
                                      .x_label = "MiB",
                                      .bars = {{"a", 1.0, "1 MiB", Style::kGreen, ""},
                                               {"b", kNan, "?", Style::kGreen, ""},
                                               {"c", 0.0, "0", Style::kGrey, ""}}});
  EXPECT_EQ(marks(html), 2);
  EXPECT_NE(html.find("<title>a: 1 MiB</title>"), std::string::npos);
  expect_clean(html);
  expect_clean(bar_chart({.title = "none", .x_label = "MiB", .bars = {}}));
}

TEST(ColumnChart, DrawsInfinityHollowAndCountsNan) {
  const std::string html = column_chart({.x_label = "block",
                                         .y_label = "dB",
                                         .panels = {{.title = "q_proj",
                                                     .columns = {{0, 10.0, Style::kBlue, "x"},
                                                                 {1, kInfinity, Style::kBlue, "y"},
                                                                 {2, kNan, Style::kBlue, "z"}}}}});
  EXPECT_EQ(marks(html), 2);
  EXPECT_EQ(count(html, "mark hollow"), 1);
  EXPECT_NE(html.find("1 value that is not finite is not drawn."), std::string::npos);
  expect_clean(html);
}

TEST(ColumnChart, TakesOneColumnAndEmptyPanels) {
  const ColumnPanel one{.title = "one", .columns = {{7, -3.0, Style::kGrey, ""}}};
  const ColumnPanel none{.title = "none", .columns = {}};
  const std::string html = column_chart({.x_label = "block", .y_label = "dB", .panels = {one, none}});
  EXPECT_EQ(marks(html), 1);
  EXPECT_NE(html.find("no data"), std::string::npos);
  expect_clean(html);
  EXPECT_EQ(count(column_chart({}), "<figure"), 0);
}

TEST(ColumnChart, TakesOutPanelsWhoseColumnsAreAllTheSame) {
  ColumnChart chart{.x_label = "block", .y_label = "MiB"};
  chart.panels = {{.title = "same", .columns = {{0, 1.0, Style::kBlue, ""}, {1, 1.0, Style::kBlue, ""}}},
                  {.title = "sizes", .columns = {{0, 1.0, Style::kBlue, ""}, {1, 2.0, Style::kBlue, ""}}},
                  {.title = "formats", .columns = {{0, 1.0, Style::kBlue, ""}, {1, 1.0, Style::kGreen, ""}}}};
  EXPECT_EQ(chart.take_uniform_panels(), std::vector<std::string>{"same"});
  ASSERT_EQ(chart.panels.size(), 2U);
  EXPECT_EQ(chart.panels[0].title, "sizes");
  EXPECT_EQ(chart.panels[1].title, "formats");
}

TEST(RangeChart, HasAMarkForEachFiniteSpan) {
  const RangePanel panel{
      .title = "input",
      .series = {{.style = Style::kPurple, .spans = {{0, -1.0, 2.0, "a"}, {1, -1.0, kInfinity, "b"}}},
                 {.style = Style::kGrey, .spans = {{0, -3.0, 1.0, "c"}, {1, 0.0, 0.0, "d"}}}},
      .brackets = {{0, -1.0, 1.0, ""}}};
  const std::string html = range_chart({.x_label = "block", .y_label = "value", .panels = {panel}});
  EXPECT_EQ(marks(html), 3);
  EXPECT_EQ(count(html, "class=\"bracket\""), 2);
  EXPECT_NE(html.find("1 value that is not finite"), std::string::npos);
  expect_clean(html);
}

TEST(RangeChart, TakesALogarithmWhereSpansDifferWidely) {
  const auto chart = [](double high) {
    const RangePanel panel{.title = "input",
                           .series = {{.style = Style::kGrey, .spans = {{0, -1.0, 1.0, ""}, {1, -1.0, high, ""}}}},
                           .brackets = {}};
    return range_chart({.x_label = "block", .y_label = "value", .panels = {panel}});
  };
  EXPECT_NE(chart(2000.0).find(">100</text>"), std::string::npos);
  EXPECT_NE(chart(2000.0).find(">10</text>"), std::string::npos);
  EXPECT_EQ(chart(20.0).find(">100</text>"), std::string::npos);
}

TEST(Svg, ShortensByCharactersAndNotBytes) {
  EXPECT_EQ(svg::shorten("abcdefghij", 5), "ab…ij");
  EXPECT_EQ(svg::shorten("ééééé", 5), "ééééé");
  EXPECT_EQ(svg::characters(svg::shorten("éééééééé", 6)), 6U);
}

TEST(Svg, EscapesControlCharacters) { EXPECT_EQ(svg::escape(std::string("a\x01z\xff")), R"(a\x01z\xFF)"); }

TEST(Axis, CoversItsRangeWithRoundTicks) {
  const svg::Axis axis = svg::Axis::to_ticks(0.0, 37.0, 4);
  EXPECT_EQ(axis.ticks().front().label, "0");
  EXPECT_EQ(axis.ticks().back().label, "40");
  EXPECT_DOUBLE_EQ(axis.at(40.0), 1.0);
  const svg::Axis small = svg::Axis::to_ticks(0.0, 0.0031, 4);
  EXPECT_EQ(small.ticks().back().label, "0.004");
}

}  // namespace
}  // namespace diffulex_edge
