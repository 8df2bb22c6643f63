#include "report/svg.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "core/printable.h"
#include "report/text_table.h"

namespace diffulex_edge::svg {
namespace {

constexpr double kAxisHeight = 44.0;  // under the plot: numbers and label

// 1, 2 or 5 times a power of ten: the least that makes at most `ticks` steps of `span`.
double round_step(double span, int ticks) {
  const double rough = span / ticks;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * (1.0 - 1e-9)) {
      return factor * power;
    }
  }
  return 10.0 * power;
}

int decimals_of(double step) { return std::max(0, static_cast<int>(std::ceil(-std::log10(step) - 1e-9))); }

// Finite ends that differ.
void widen(double& low, double& high) {
  if (!std::isfinite(low) || !std::isfinite(high)) {
    low = 0.0;
    high = 1.0;
  }
  if (low > high) {
    std::swap(low, high);
  }
  const double size = std::max(std::fabs(low), std::fabs(high));
  if (high - low <= size * 1e-9 || high == low) {
    const double margin = size == 0.0 ? 0.5 : size * 0.05;
    low -= margin;
    high += margin;
  }
}

std::vector<Tick> ticks_between(double low, double high, double step) {
  std::vector<Tick> ticks;
  const int decimals = decimals_of(step);
  const double first = std::ceil(low / step - 1e-6);
  const int count = static_cast<int>(std::floor(high / step + 1e-6) - first) + 1;
  for (int i = 0; i < count; ++i) {
    const double multiple = first + i;
    const double value = multiple == 0.0 ? 0.0 : multiple * step;
    ticks.push_back({.value = value, .label = format_number(value, decimals)});
  }
  return ticks;
}

}  // namespace

std::string escape(std::string_view text) {
  std::string result;
  for (const char c : printable_lines(text)) {
    switch (c) {
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '&':
        result += "&amp;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

std::size_t characters(std::string_view text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

std::string shorten(const std::string& text, std::size_t most) {
  if (characters(text) <= most || most < 3) {
    return text;
  }
  std::vector<std::string> letters;
  for (const char c : text) {
    if (letters.empty() || (static_cast<unsigned char>(c) & 0xC0U) != 0x80U) {
      letters.emplace_back();
    }
    letters.back() += c;
  }
  const std::size_t tail = (most - 1) / 2;
  std::string result;
  for (std::size_t i = 0; i < most - 1 - tail; ++i) {
    result += letters[i];
  }
  result += "…";
  for (std::size_t i = letters.size() - tail; i < letters.size(); ++i) {
    result += letters[i];
  }
  return result;
}

std::string number(double value) {
  std::array<char, 32> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%.4g", value);
  return buffer.data();
}

Axis Axis::linear(double low, double high, int ticks) {
  widen(low, high);
  Axis axis;
  const double margin = 0.1 * (high - low);
  axis.low_ = low - margin;
  axis.high_ = high + margin;
  axis.ticks_ = ticks_between(axis.low_, axis.high_, round_step(high - low, ticks));
  return axis;
}

Axis Axis::to_ticks(double low, double high, int ticks) {
  widen(low, high);
  const double step = round_step(high - low, ticks);
  Axis axis;
  axis.low_ = std::floor(low / step + 1e-9) * step;
  axis.high_ = std::ceil(high / step - 1e-9) * step;
  axis.ticks_ = ticks_between(axis.low_, axis.high_, step);
  return axis;
}

Axis Axis::symmetric_log(double low, double high, double unit) {
  widen(low, high);
  constexpr double kMostDecades = 1e5;
  const double largest = std::max(-low, high);
  unit = std::max(unit, std::pow(10.0, std::floor(std::log10(largest / kMostDecades))));
  Axis axis;
  axis.unit_ = unit;
  axis.low_ = axis.transform(low);
  axis.high_ = axis.transform(high);
  std::vector<double> values = {0.0};
  double size = unit;
  while (size <= largest) {
    values.insert(values.end(), {-size, size});
    size *= 10.0;
  }
  std::ranges::sort(values);
  for (const double value : values) {
    if (value >= low && value <= high) {
      axis.ticks_.push_back({.value = value, .label = number(value)});
    }
  }
  return axis;
}

Axis Axis::integers(std::int64_t low, std::int64_t high, int ticks) {
  Axis axis;
  axis.low_ = static_cast<double>(low) - 0.5;
  axis.high_ = static_cast<double>(high) + 0.5;
  const double step = std::max(1.0, round_step(static_cast<double>(std::max<std::int64_t>(high - low, 1)), ticks));
  axis.ticks_ = ticks_between(static_cast<double>(low), static_cast<double>(high), step);
  return axis;
}

double Axis::transform(double value) const { return unit_ == 0.0 ? value : std::asinh(value / unit_); }

double Axis::at(double value) const { return (transform(value) - low_) / (high_ - low_); }

std::string percent(double share) { return format_number(100.0 * share, 2) + "%"; }

std::string pixels(double value) { return format_number(value, 1); }

std::string title(std::string_view tooltip) {
  return tooltip.empty() ? std::string() : "<title>" + escape(tooltip) + "</title>";
}

std::string text(std::string_view x, double y, std::string_view text_class, std::string_view content) {
  return "<text x=\"" + std::string(x) + "\" y=\"" + pixels(y) + "\" class=\"" + std::string(text_class) + "\">" +
         escape(content) + "</text>";
}

std::string line(std::string_view x1, double y1, std::string_view x2, double y2, std::string_view line_class) {
  return "<line x1=\"" + std::string(x1) + "\" y1=\"" + pixels(y1) + "\" x2=\"" + std::string(x2) + "\" y2=\"" +
         pixels(y2) + "\" class=\"" + std::string(line_class) + "\"/>";
}

std::string style_class(Style style) { return "s" + std::to_string(static_cast<int>(style)); }

std::string area(double x_share, double width_share, double y, double height, Style style, std::string_view tooltip) {
  return "<rect class=\"mark area " + style_class(style) + "\" x=\"" + percent(x_share) + "\" width=\"" +
         percent(width_share) + "\" y=\"" + pixels(y) + "\" height=\"" + pixels(std::max(height, 1.0)) + "\">" +
         title(tooltip) + "</rect>";
}

std::string shape(Style style) {
  switch (style) {
    case Style::kGrey:
      return "<circle r=\"5\"/>";
    case Style::kBlue:
      return "<path d=\"M-5-5H5V5H-5Z\"/>";
    case Style::kGreen:
      return "<path d=\"M0-6.5L6 5H-6Z\"/>";
    case Style::kOrange:
      return "<path d=\"M0-7L7 0L0 7L-7 0Z\"/>";
    case Style::kPurple:
      return "<path d=\"M0-8L2.1-2.6L7.6-2.5L3.3 1.1L4.7 6.5L0 3.4L-4.7 6.5L-3.3 1.1L-7.6-2.5L-2.1-2.6Z\"/>";
    case Style::kRed:
      return "<path d=\"M0 6.5L6-5H-6Z\"/>";
    case Style::kTeal:
      return "<path d=\"M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z\"/>";
  }
  return {};
}

std::string point(double x_share, double y, Style style, std::string_view tooltip, bool is_hollow) {
  return std::string("<svg class=\"mark point ") + (is_hollow ? "outline " : "") + style_class(style) + "\" x=\"" +
         percent(x_share) + "\" y=\"" + pixels(y) + "\"><g>" + title(tooltip) + shape(style) + "</g></svg>";
}

double y_at(const Axis& axis, double height, double value) { return height * (1.0 - axis.at(value)); }

std::string x_axis(const Axis& axis, double height, std::string_view label) {
  std::string drawing = line("0", height, "100%", height, "axis");
  if (label.empty()) {
    return drawing;
  }
  for (const Tick& tick : axis.ticks()) {
    const std::string x = percent(axis.at(tick.value));
    drawing += line(x, height, x, height + 4.0, "axis");
    drawing += text(x, height + 18.0, "tick middle", tick.label);
  }
  return drawing + text("50%", height + 38.0, "label middle", label);
}

std::string y_axis(const Axis& axis, double height) {
  constexpr double kLeastDistance = 12.0;
  const double zero = y_at(axis, height, 0.0);
  std::string drawing;
  for (const Tick& tick : axis.ticks()) {
    const double y = y_at(axis, height, tick.value);
    if (tick.value != 0.0 && std::fabs(y - zero) < kLeastDistance) {
      continue;
    }
    drawing += line("0", y, "100%", y, tick.value == 0.0 ? "axis" : "grid");
    drawing += text("-8", y + 4.0, "tick end", tick.label);
  }
  return drawing;
}

std::string figure(std::string_view title_text, std::string_view y_label, std::string_view drawing, double height,
                   std::string_view note) {
  std::string html = "<figure class=\"chart\">";
  if (!title_text.empty()) {
    html += "<figcaption>" + escape(title_text) + "</figcaption>";
  }
  if (!y_label.empty()) {
    html += "<div class=\"y-label\">↑ " + escape(y_label) + "</div>";
  }
  html += std::string("<div class=\"plot") + (y_label.empty() ? " wide" : "") + "\"><svg role=\"img\" aria-label=\"" +
          escape(title_text) + "\" width=\"100%\" height=\"" + pixels(height + kAxisHeight) + "\">" +
          std::string(drawing) + "</svg></div>";
  if (!note.empty()) {
    html += "<p class=\"note\">" + escape(note) + "</p>";
  }
  return html + "</figure>";
}

std::string not_drawn(std::size_t count) {
  if (count == 0) {
    return {};
  }
  return std::to_string(count) + (count == 1 ? " value that is not finite is" : " values that are not finite are") +
         " not drawn.";
}

}  // namespace diffulex_edge::svg

namespace diffulex_edge {

std::string legend(const std::vector<LegendEntry>& entries, LegendMark mark) {
  std::string html = "<ul class=\"legend\">";
  for (const LegendEntry& entry : entries) {
    html += "<li><svg width=\"18\" height=\"18\" aria-hidden=\"true\" class=\"" + svg::style_class(entry.style) + "\">";
    html += mark == LegendMark::kPoint
                ? "<svg x=\"9\" y=\"9\" class=\"point" + std::string(entry.is_hollow ? " outline" : "") + "\"><g>" +
                      svg::shape(entry.style) + "</g></svg>"
                : "<rect class=\"area\" width=\"18\" height=\"18\"/>";
    html += "</svg>" + svg::escape(entry.name) + "</li>";
  }
  return html + "</ul>";
}

}  // namespace diffulex_edge
