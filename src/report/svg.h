// What the charts are drawn with: axes, marks, text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "report/chart.h"

namespace diffulex_edge::svg {

// For text and attribute values of HTML and SVG. Control characters that neither may hold become U+FFFD.
std::string escape(std::string_view text);
// At most `most` characters (of UTF-8), the middle replaced by an ellipsis.
std::string shorten(const std::string& text, std::size_t most);
std::size_t characters(std::string_view text);

// A number for a person: four significant digits, without trailing zeros.
std::string number(double value);

struct Tick {
  double value = 0.0;
  std::string label;
};

// Where values lie along an axis, from 0 (its beginning) to 1.
class Axis {
 public:
  // Covers [low, high] with round ticks, and some room where they are not round. Equal or not finite ends get a range
  // around them.
  static Axis linear(double low, double high, int ticks);
  // Ends at ticks, for bars.
  static Axis to_ticks(double low, double high, int ticks);
  // asinh(value / unit): linear within +-unit, logarithmic beyond.
  static Axis symmetric_log(double low, double high, double unit);
  static Axis integers(std::int64_t low, std::int64_t high, int ticks);

  double at(double value) const;
  bool is_logarithmic() const { return unit_ != 0.0; }
  const std::vector<Tick>& ticks() const { return ticks_; }

 private:
  double transform(double value) const;

  double low_ = 0.0;
  double high_ = 1.0;
  double unit_ = 0.0;  // 0: linear
  std::vector<Tick> ticks_;
};

// "12.34%" of a share, "12.3" of pixels.
std::string percent(double share);
std::string pixels(double value);

std::string title(std::string_view tooltip);
// `x` is a percentage or a number of pixels, as text.
std::string text(std::string_view x, double y, std::string_view text_class, std::string_view content);
std::string line(std::string_view x1, double y1, std::string_view x2, double y2, std::string_view line_class);
std::string area(double x_share, double width_share, double y, double height, Style style, std::string_view tooltip);
// A point's shape around a position, filled or as an outline.
std::string point(double x_share, double y, Style style, std::string_view tooltip, bool is_hollow = false);
// Around (0, 0), without a position.
std::string shape(Style style);
// "s3": the class that sets a style's colour.
std::string style_class(Style style);

// The horizontal axis under a plot of `height` pixels, with its label; without one, only a line.
std::string x_axis(const Axis& axis, double height, std::string_view label);
// Grid lines and numbers to the left of the plot.
std::string y_axis(const Axis& axis, double height);
// A vertical position in pixels.
double y_at(const Axis& axis, double height, double value);

// The figure around a plot: its title, the label of its vertical axis, the drawing `height` pixels high with room for
// the axes, and a line under it.
std::string figure(std::string_view title, std::string_view y_label, std::string_view drawing, double height,
                   std::string_view note = {});
std::string not_drawn(std::size_t count);

}  // namespace diffulex_edge::svg
