// What an evaluation found, as a page.

#include <algorithm>
#include <cmath>
#include <limits>

#include "diffulex_edge/report.h"
#include "report/calibration_report.h"
#include "report/chart.h"
#include "report/description.h"
#include "report/html_page.h"
#include "report/layer_charts.h"
#include "report/provenance.h"
#include "report/svg.h"
#include "report/text_table.h"

namespace diffulex_edge {
namespace {

std::string percent(double share) { return format_number(100.0 * share, 1) + "%"; }

// "+0.0012", "−0.0003"
std::string with_sign(double value, int decimals) {
  const std::string text = format_number(std::fabs(value), decimals);
  return (value < 0.0 ? "−" : "+") + text;
}

std::string half_width(const Estimate& estimate, int decimals) {
  return std::isfinite(estimate.low) ? " ± " + format_number((estimate.high - estimate.low) / 2.0, decimals) : "";
}

std::string set_name(const std::string& label) {
  if (label == "next") {
    return "next token";
  }
  return label == "bound" ? label : "set " + label;
}

std::string short_name(const QuantizationConfig& config) {
  std::string name = dtype_name(config);
  if (config.layer_formats.empty() && config.dtype == QuantizationDtype::INT4) {
    name += config.group_size == 0 ? " channel" : " g" + std::to_string(config.group_size);
  }
  return name;
}

std::int64_t original_bytes(const QuantizationPlan& plan) {
  QuantizationPlan plain = plan;
  for (LayerPlan& layer : plain.layers) {
    layer.format = float_format(ElementType::kF32);
  }
  return planned_bytes(plain);
}

// The set where `value` is largest.
template <typename Value>
const SetResult& worst(const std::vector<SetResult>& sets, Value value) {
  return *std::ranges::max_element(sets, {}, value);
}

void add_size_tile(std::vector<Tile>& tiles, const EvaluationReport& report) {
  if (report.plan != nullptr) {
    const std::int64_t bytes = planned_bytes(*report.plan);
    const std::int64_t original = original_bytes(*report.plan);
    const double share = static_cast<double>(bytes) / static_cast<double>(original);
    tiles.push_back({.name = "Weights",
                     .value = format_bytes(bytes),
                     .note = percent(share) + " of " + format_bytes(original) + " in FP32"});
  }
}

std::vector<Tile> loss_tiles(const std::vector<SetResult>& sets) {
  std::vector<Tile> tiles;
  for (const SetResult& set : sets) {
    tiles.push_back({.name = "Loss, " + set_name(set.label),
                     .value = format_number(set.loss.mean, 4),
                     .note = "nats" + half_width(set.loss, 4)});
  }
  return tiles;
}

std::vector<Tile> comparison_tiles(const EvaluationReport& report) {
  const auto comparison = [](const SetResult& set) { return set.comparison.value_or(ReferenceComparison()); };
  const std::vector<SetResult>& sets = report.result.sets;
  const auto increase = [&](const SetResult& set) { return comparison(set).loss_increase.mean; };
  const auto kl = [&](const SetResult& set) { return comparison(set).kl_divergence.mean; };
  const auto disagreement = [&](const SetResult& set) { return 1.0 - comparison(set).agreement; };
  const auto flips = [&](const SetResult& set) { return comparison(set).commit_flip_rate; };
  std::vector<Tile> tiles;
  add_size_tile(tiles, report);
  const std::string of = sets.size() > 1 ? "worst: " : "";
  const SetResult& loss = worst(sets, increase);
  tiles.push_back({.name = "Loss increase",
                   .value = with_sign(increase(loss), 4),
                   .note = "nats" + half_width(comparison(loss).loss_increase, 4) + ", " + of + set_name(loss.label)});
  const SetResult& divergence = worst(sets, kl);
  tiles.push_back({.name = "KL divergence",
                   .value = format_number(kl(divergence), 5),
                   .note = "nats, " + of + set_name(divergence.label)});
  const SetResult& agreement = worst(sets, disagreement);
  tiles.push_back({.name = "Same best token",
                   .value = percent(1.0 - disagreement(agreement)),
                   .note = of + set_name(agreement.label)});
  const SetResult& flip = worst(sets, flips);
  tiles.push_back({.name = "Commits that flip", .value = percent(flips(flip)), .note = of + set_name(flip.label)});
  return tiles;
}

std::string loss_table(const std::vector<SetResult>& sets) {
  std::vector<std::string> header = {"set", "tokens", "loss (nats)", "perplexity", "accuracy"};
  const bool compared = !sets.empty() && sets.front().comparison;
  if (compared) {
    for (const char* column : {"reference", "increase", "KL (nats)", "same best token", "commits flipped"}) {
      header.emplace_back(column);
    }
  }
  std::vector<std::vector<std::string>> rows;
  for (const SetResult& set : sets) {
    std::vector<std::string> row = {set.label, format_count(set.tokens), with_interval(set.loss, 4),
                                    svg::number(std::exp(set.loss.mean)), percent(set.accuracy)};
    if (set.comparison) {
      row.push_back(format_number(set.comparison->reference_loss.mean, 4));
      row.push_back(with_sign(set.comparison->loss_increase.mean, 4) + half_width(set.comparison->loss_increase, 4));
      row.push_back(with_interval(set.comparison->kl_divergence, 5));
      row.push_back(percent(set.comparison->agreement));
      row.push_back(percent(set.comparison->commit_flip_rate));
    }
    rows.push_back(std::move(row));
  }
  return html_table(header, rows);
}

// A format's loss on one set. The whisker is the increase's interval: that of the loss itself says how much sequences
// differ, not formats.
ChartPoint loss_point(const SetResult& set, std::int64_t bytes, const std::string& label, const std::string& name) {
  ChartPoint point{.x = to_mib(bytes), .y = set.loss.mean, .label = label, .tooltip = {}};
  if (set.comparison) {
    const Estimate& increase = set.comparison->loss_increase;
    const double reference = set.comparison->reference_loss.mean;
    point.low = reference + increase.low;
    point.high = reference + increase.high;
    point.tooltip = name + ": " + format_bytes(bytes) + ", loss " + format_number(set.loss.mean, 4) + " (" +
                    with_sign(increase.mean, 4) + half_width(increase, 4) + "), KL " +
                    svg::number(set.comparison->kl_divergence.mean);
  }
  return point;
}

// This run may be one of the formats: it is drawn once.
bool is_same(const EvaluationReport& report, const FormatResult& format, std::size_t set) {
  return report.plan != nullptr && planned_bytes(*report.plan) == format.planned_bytes &&
         report.result.sets[set].loss.mean == format.sets[set].loss.mean;
}

ScatterChart loss_chart(const EvaluationReport& report, const FormatComparison& formats, std::size_t set) {
  const SetResult& own = report.result.sets[set];
  ScatterChart chart{.title = set_name(own.label),
                     .x_label = "weights (MiB)",
                     .y_label = "loss (nats)",
                     .series = {},
                     .reference = {}};
  std::string own_label = "this run";
  if (!formats.formats.empty()) {
    const double loss =
        formats.formats.front().sets[set].comparison.value_or(ReferenceComparison()).reference_loss.mean;
    chart.reference = ReferenceLine{.y = loss, .label = ""};
    ChartPoint point{.x = to_mib(formats.original_bytes), .y = loss, .label = "fp32", .tooltip = {}};
    point.tooltip = "fp32: " + format_bytes(formats.original_bytes) + ", loss " + format_number(loss, 4);
    chart.series.push_back({.name = "fp32", .style = Style::kGrey, .points = {point}});
  }
  for (const FormatResult& format : formats.formats) {
    if (is_same(report, format, set)) {
      own_label = "this run, " + short_name(format.config);
      continue;
    }
    // Whiskers of formats of one size would hide each other.
    ChartPoint point = loss_point(format.sets[set], format.planned_bytes, short_name(format.config), format.name);
    point.low = point.high = std::numeric_limits<double>::quiet_NaN();
    chart.series.push_back({.name = format.name, .style = style_of(format.config.dtype), .points = {point}});
  }
  if (report.plan != nullptr) {
    chart.series.push_back({.name = "this run",
                            .style = Style::kPurple,
                            .points = {loss_point(own, planned_bytes(*report.plan), own_label,
                                                  "this run, " + describe(report.plan->config))}});
  }
  return chart;
}

std::string format_table(const FormatComparison& formats) {
  std::vector<std::string> header = {"format", "MiB"};
  for (const SetResult& set : formats.formats.front().sets) {
    header.push_back(set_name(set.label) + ": increase");
    header.emplace_back("KL");
  }
  std::vector<std::vector<std::string>> rows;
  for (const FormatResult& format : formats.formats) {
    std::vector<std::string> row = {describe(format.config), format_number(to_mib(format.planned_bytes), 2)};
    for (const SetResult& set : format.sets) {
      const ReferenceComparison comparison = set.comparison.value_or(ReferenceComparison());
      row.push_back(with_sign(comparison.loss_increase.mean, 4) + half_width(comparison.loss_increase, 4));
      row.push_back(svg::number(comparison.kl_divergence.mean));
    }
    rows.push_back(std::move(row));
  }
  return html_table(header, rows);
}

void add_formats(HtmlPage& page, const EvaluationReport& report) {
  if (report.formats == nullptr) {
    return;
  }
  page.section(
      "Loss against size",
      "Every format with all linear layers in it, weights rounded to nearest, and the embedding and the head as "
      "in this run. The dashed line is the model in float32; the star's whisker is the 95% interval of this run's "
      "difference to it, those of the others are in the table.");
  std::vector<LegendEntry> entries = {{"fp32", Style::kGrey}};
  for (const QuantizationDtype dtype : {QuantizationDtype::FP16, QuantizationDtype::INT8, QuantizationDtype::INT4}) {
    const bool occurs = std::ranges::any_of(report.formats->formats,
                                            [=](const FormatResult& format) { return format.config.dtype == dtype; });
    if (occurs) {
      entries.push_back({std::string(to_string(dtype)), style_of(dtype)});
    }
  }
  if (report.plan != nullptr) {
    entries.push_back({"this run: " + describe(report.plan->config), Style::kPurple});
  }
  page.add(legend(entries, LegendMark::kPoint) + "<div class=\"panels wide\">");
  for (std::size_t set = 0; set < report.result.sets.size(); ++set) {
    page.add(scatter_chart(loss_chart(report, *report.formats, set)));
  }
  page.add("</div>");
  if (!report.formats->formats.empty()) {
    page.details("The figures as a table", format_table(*report.formats));
  }
  for (const LeftOutFormat& format : report.formats->left_out) {
    page.add("<p class=\"note\">Left out: " + svg::escape(format.name) + ". " + svg::escape(format.reason) + "</p>");
  }
}

std::string layer_table(const EvaluationReport& report) {
  std::vector<std::vector<std::string>> rows;
  for (const LayerNoise& layer : report.result.layers) {
    std::string format = "as stored";
    if (report.plan != nullptr) {
      const auto found = std::ranges::find_if(report.plan->layers, [&](const LayerPlan& plan) {
        return plan.layer == layer.layer && plan.role == LayerRole::kLinear;
      });
      format = found == report.plan->layers.end() ? format : to_string(found->format);
    }
    const bool is_finite = std::isfinite(layer.signal_to_noise_db);
    rows.push_back({layer.layer, is_finite ? format_number(layer.signal_to_noise_db, 2) : "no error", format});
  }
  return html_table({"layer", "signal-to-noise (dB)", "format"}, rows);
}

void add_layers(HtmlPage& page, const EvaluationReport& report) {
  if (report.result.layers.empty()) {
    return;
  }
  page.section(
      "Layers",
      "How far each linear layer's output is from the reference's, the errors of earlier layers included: every "
      "6 dB more is half the error. Hollow: no error at all.");
  if (report.plan != nullptr) {
    std::vector<SizedLayer> linear;
    for (const SizedLayer& layer : sized_layers(*report.plan)) {
      if (layer.plan->role == LayerRole::kLinear) {
        linear.push_back(layer);
      }
    }
    page.add(format_legend(linear));
  }
  page.add(noise_chart(report.result.layers, report.plan));
  page.details("Every layer as a table", layer_table(report));
}

void add_sizes(HtmlPage& page, const EvaluationReport& report) {
  if (report.plan == nullptr) {
    return;
  }
  const std::vector<SizedLayer> layers = sized_layers(*report.plan);
  page.section("Sizes", "Weights and scales as planned; a file adds its program and padding.");
  page.add(format_legend(layers) + size_chart(layers));
}

std::string subtitle_of(const EvaluationReport& report) {
  std::string format = report.plan == nullptr ? "as stored, in float32" : describe(report.plan->config);
  if (report.calibration != nullptr && !report.calibration->rounding.empty()) {
    format += ", rounded with calibration";
  }
  return "Evaluation, " + format + (report.reference.empty() ? "" : ", against " + report.reference);
}

}  // namespace

std::string to_html(const EvaluationReport& report) {
  HtmlPage page(last_part(report.model.path), subtitle_of(report));
  page.tiles(report.reference.empty() || report.result.sets.empty() ? loss_tiles(report.result.sets)
                                                                    : comparison_tiles(report));
  page.warnings(report.warnings);
  page.section(
      "Loss",
      "Mean cross-entropy, ± half of a 95% confidence interval by sequences. Numbers name sets by their masked "
      "tokens in percent; “bound” is the Monte Carlo bound on −log p for each token, “next” the next token.");
  page.add(loss_table(report.result.sets));
  add_formats(page, report);
  add_layers(page, report);
  add_sizes(page, report);
  if (report.calibration != nullptr) {
    add_calibration(page, *report.calibration);
  }
  Facts facts = {{"Data", report.data}};
  if (!report.reference.empty()) {
    facts.emplace_back("Reference", report.reference);
  }
  add_provenance(page, report.model, report.provenance, facts);
  return page.render();
}

}  // namespace diffulex_edge
