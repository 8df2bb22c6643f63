// What an evaluation found, as a page.

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>

#include "diffulex_edge/report.h"
#include "report/calibration_report.h"
#include "report/chart.h"
#include "report/description.h"
#include "report/difference.h"
#include "report/generation_report.h"
#include "report/html_page.h"
#include "report/layer_charts.h"
#include "report/provenance.h"
#include "report/svg.h"
#include "report/text_table.h"
#include "report/verdict.h"

namespace diffulex_edge {
namespace {

std::string percent(double share) { return format_number(100.0 * share, 1) + "%"; }

std::string short_name(const QuantizationConfig& config) {
  std::string name = dtype_name(config);
  if (config.layer_formats.empty() && format_row(config.dtype).takes_groups) {
    name += config.group_size == 0 ? " channel" : " g" + std::to_string(config.group_size);
  }
  return config.method == RoundingMethod::RTN ? name : name + " " + std::string(to_string(config.method));
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
  const auto kl = [&](const SetResult& set) { return comparison(set).kl_divergence.mean; };
  const auto disagreement = [&](const SetResult& set) { return 1.0 - comparison(set).agreement; };
  const auto flips = [&](const SetResult& set) { return comparison(set).commit_flip_rate; };
  std::vector<Tile> tiles;
  add_size_tile(tiles, report);
  const std::string of = sets.size() > 1 ? "worst: " : "";
  const SetResult& loss = worst_loss(sets);
  const Estimate increase = comparison(loss).loss_increase;
  const bool is_none = difference_of(increase) == Difference::kNone;
  tiles.push_back({.name = "Loss increase",
                   .value = with_sign(increase.mean, 4),
                   .note = "nats" + half_width(increase, 4) + ", " + of + set_name(loss.label) +
                           (is_none ? ": no measurable difference" : "")});
  const SetResult& divergence = worst(sets, kl);
  tiles.push_back({.name = "KL divergence",
                   .value = format_number(kl(divergence), 5),
                   .note = "nats between predictions, " + of + set_name(divergence.label)});
  const SetResult& agreement = worst(sets, disagreement);
  tiles.push_back({.name = "Same best token",
                   .value = percent(1.0 - disagreement(agreement)),
                   .note = "of positions, " + of + set_name(agreement.label)});
  const SetResult& flip = worst(sets, flips);
  tiles.push_back({.name = "Commits that flip",
                   .value = percent(flips(flip)),
                   .note = "of tokens that decoding fills first, " + of + set_name(flip.label)});
  return tiles;
}

std::vector<Tile> tiles_of(const EvaluationReport& report) {
  std::vector<Tile> tiles;
  if (report.result.sets.empty()) {
    add_size_tile(tiles, report);
  } else {
    tiles = report.reference.empty() ? loss_tiles(report.result.sets) : comparison_tiles(report);
  }
  if (report.answers != nullptr) {
    add_generation_tiles(tiles, *report.answers);
  }
  return tiles;
}

std::string loss_table(const std::vector<SetResult>& sets) {
  std::vector<std::string> header = {"set", "tokens", "loss (nats)", "perplexity", "accuracy"};
  const bool compared = !sets.empty() && sets.front().comparison;
  if (compared) {
    for (const char* column :
         {"reference", "increase", "in words", "KL (nats)", "same best token", "commits flipped"}) {
      header.emplace_back(column);
    }
  }
  std::vector<std::vector<std::string>> rows;
  for (const SetResult& set : sets) {
    std::vector<std::string> row = {set.label, format_count(set.tokens), with_interval(set.loss, 4),
                                    svg::number(std::exp(set.loss.mean)), percent(set.accuracy)};
    if (set.comparison) {
      row.push_back(format_number(set.comparison->reference_loss.mean, 4));
      row.push_back(signed_estimate(set.comparison->loss_increase, 4));
      row.push_back(in_words(difference_of(set.comparison->loss_increase)));
      row.push_back(with_interval(set.comparison->kl_divergence, 5));
      row.push_back(percent(set.comparison->agreement));
      row.push_back(percent(set.comparison->commit_flip_rate));
    }
    rows.push_back(std::move(row));
  }
  return html_table(header, rows);
}

// What the loss table's words mean, those that occur.
Facts loss_terms(const std::vector<SetResult>& sets) {
  const auto has = [&](std::string_view label) {
    return std::ranges::any_of(sets, [&](const SetResult& set) { return set.label == label; });
  };
  Facts terms = {{"loss", "mean cross-entropy of the right tokens in nats (natural logarithms); less is better"},
                 {"±", "half of the 95% confidence interval, from how much sequences differ; one sequence has none"},
                 {"perplexity", "e to the power of the loss: between how many tokens the model wavers"}};
  if (std::ranges::any_of(sets, [](const SetResult& set) { return std::isdigit(set.label.front()) != 0; })) {
    terms.emplace_back("15, 50, …", "a set of sequences, named by how many percent of its tokens are masked");
  }
  if (has("bound")) {
    terms.emplace_back(
        "bound",
        "the loss at random mask ratios, weighted so that its mean is an upper bound of −log p(text) for "
        "each token: the figure in which diffusion models are compared with others");
  }
  if (has("next")) {
    terms.emplace_back("next", "the loss of the next token, as for autoregressive models");
  }
  if (!sets.empty() && sets.front().comparison) {
    terms.emplace_back("increase",
                       "loss minus the reference's, token by token; where its interval holds zero, these data show no "
                       "difference, whatever the sign");
    terms.emplace_back("KL",
                       "Kullback-Leibler divergence of the predictions from the reference's: 0 where they are the "
                       "same; it sees changes that the loss does not");
    terms.emplace_back("same best token", "positions where both models give the highest probability to the same token");
    terms.emplace_back("commits flipped",
                       "a decoder fills in first what the model is surest of: of the surest quarter of the reference's "
                       "positions, those where this model would fill another position, or another token");
  }
  return terms;
}

// A format's cost on one set.
IntervalRow increase_row(const SetResult& set, const std::string& label, const std::string& name, std::int64_t bytes,
                         Style style) {
  const ReferenceComparison comparison = set.comparison.value_or(ReferenceComparison());
  const Estimate& increase = comparison.loss_increase;
  const Difference difference = difference_of(increase);
  const double divergence = comparison.kl_divergence.mean;
  const std::string kl = std::isfinite(divergence) ? ", KL " + svg::number(divergence) : "";
  return {.label = label,
          .value = increase.mean,
          .low = increase.low,
          .high = increase.high,
          .text = difference == Difference::kNone ? "not measurable" : signed_estimate(increase, 4),
          .style = style,
          .tooltip = name + ": " + format_bytes(bytes) + ", loss " + format_number(set.loss.mean, 4) + " (" +
                     signed_estimate(increase, 4) + ", " + in_words(difference) + ")" + kl,
          .is_hollow = difference == Difference::kNone};
}

// One format of the chart of loss against size, or this run.
struct FormatEntry {
  std::string label;
  std::string name;
  std::int64_t bytes = 0;
  Style style = Style::kGrey;
  std::vector<SetResult> sets;  // compared with the model in float32
};

// This run may be one of the formats: it is drawn once.
bool is_same(const EvaluationReport& report, const FormatResult& format) {
  return report.plan != nullptr && planned_bytes(*report.plan) == format.planned_bytes &&
         std::ranges::equal(
             report.result.sets, format.sets, {}, [](const SetResult& set) { return set.loss.mean; },
             [](const SetResult& set) { return set.loss.mean; });
}

// This run's sets beside the model in float32. Where another reference was asked for, the interval is not known.
std::vector<SetResult> own_sets(const EvaluationReport& report) {
  std::vector<SetResult> sets = report.result.sets;
  const std::vector<SetResult>& others = report.formats->formats.front().sets;
  for (std::size_t i = 0; i < sets.size(); ++i) {
    const Estimate loss = others[i].comparison.value_or(ReferenceComparison()).reference_loss;
    std::optional<ReferenceComparison>& comparison = sets[i].comparison;
    if (!comparison || comparison->reference_loss.mean != loss.mean) {
      constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
      sets[i].comparison =
          ReferenceComparison{.reference_loss = loss,
                              .loss_increase = {.mean = sets[i].loss.mean - loss.mean, .low = kNan, .high = kNan},
                              .kl_divergence = {.mean = kNan, .low = kNan, .high = kNan}};
    }
  }
  return sets;
}

// Smallest first.
std::vector<FormatEntry> format_entries(const EvaluationReport& report) {
  std::vector<FormatEntry> entries;
  bool has_own = false;
  for (const FormatResult& format : report.formats->formats) {
    const bool is_own = is_same(report, format);
    has_own |= is_own;
    entries.push_back({.label = short_name(format.config),
                       .name = is_own ? "this run, " + format.name : format.name,
                       .bytes = format.planned_bytes,
                       .style = is_own ? Style::kPurple : style_of(format.config.dtype),
                       .sets = format.sets});
  }
  if (report.plan != nullptr && !has_own) {
    entries.push_back({.label = short_name(report.plan->config),
                       .name = "this run, " + describe(report.plan->config),
                       .bytes = planned_bytes(*report.plan),
                       .style = Style::kPurple,
                       .sets = own_sets(report)});
  }
  std::ranges::sort(entries, {}, [](const FormatEntry& entry) { return std::tie(entry.bytes, entry.name); });
  return entries;
}

std::string format_charts(const EvaluationReport& report, const std::vector<FormatEntry>& entries) {
  BarChart sizes{.title = "Weights", .x_label = "MiB", .bars = {}};
  for (const FormatEntry& entry : entries) {
    sizes.bars.push_back({.label = entry.label,
                          .value = to_mib(entry.bytes),
                          .text = format_bytes(entry.bytes),
                          .style = entry.style,
                          .tooltip = entry.name + ": " + format_bytes(entry.bytes)});
  }
  const std::int64_t original = report.formats->original_bytes;
  sizes.bars.push_back({.label = "fp32", .value = to_mib(original), .text = format_bytes(original), .tooltip = {}});
  // A hundredth of a nat is a percent of perplexity.
  IntervalChart increases{.x_label = "loss increase (nats)", .panels = {}, .least_extent = 0.01};
  for (std::size_t set = 0; set < report.result.sets.size(); ++set) {
    IntervalPanel panel{.title = set_name(report.result.sets[set].label), .rows = {}};
    for (const FormatEntry& entry : entries) {
      panel.rows.push_back(increase_row(entry.sets[set], entry.label, entry.name, entry.bytes, entry.style));
    }
    increases.panels.push_back(std::move(panel));
  }
  return "<div class=\"panels\">" + bar_chart(sizes) + interval_chart(increases) + "</div>";
}

std::string format_table(const FormatComparison& formats) {
  std::vector<std::string> header = {"format", "MiB"};
  for (const SetResult& set : formats.formats.front().sets) {
    header.push_back(set_name(set.label) + ": increase");
    header.emplace_back("in words");
    header.emplace_back("KL");
  }
  std::vector<std::vector<std::string>> rows;
  for (const FormatResult& format : formats.formats) {
    std::vector<std::string> row = {describe(format.config), format_number(to_mib(format.planned_bytes), 2)};
    for (const SetResult& set : format.sets) {
      const ReferenceComparison comparison = set.comparison.value_or(ReferenceComparison());
      row.push_back(signed_estimate(comparison.loss_increase, 4));
      row.push_back(in_words(difference_of(comparison.loss_increase)));
      row.push_back(with_interval(comparison.kl_divergence, 5));
    }
    rows.push_back(std::move(row));
  }
  return html_table(header, rows);
}

std::string legend_of(const EvaluationReport& report, const std::vector<FormatEntry>& entries) {
  std::vector<LegendEntry> legend_entries;
  std::set<Style> named = {style_of(QuantizationDtype::FP32)};
  for (const FormatRow& row : all_formats()) {
    const Style style = style_of(row.dtype);
    const bool occurs = std::ranges::find(entries, style, &FormatEntry::style) != entries.end();
    if (occurs && named.insert(style).second) {
      legend_entries.push_back({.name = row.has_codebook() ? "palette" : std::string(row.name), .style = style});
    }
  }
  if (std::ranges::find(entries, Style::kPurple, &FormatEntry::style) != entries.end()) {
    legend_entries.push_back({.name = "this run: " + describe(report.plan->config), .style = Style::kPurple});
  }
  legend_entries.push_back({.name = "hollow: the interval holds zero, no measurable difference", .is_hollow = true});
  return legend(legend_entries, LegendMark::kPoint);
}

void add_formats(HtmlPage& page, const EvaluationReport& report) {
  if (report.formats == nullptr) {
    return;
  }
  page.section(
      "Loss against size",
      "By how much the loss exceeds that of the model in float32 (the dashed line), on one scale for all sets, "
      "smallest weights first. Each format has all linear layers in it, rounded to nearest, with the embedding "
      "and the head as in this run. Whiskers are 95% confidence intervals.");
  if (!report.formats->formats.empty()) {
    const std::vector<FormatEntry> entries = format_entries(report);
    page.add(legend_of(report, entries) + format_charts(report, entries));
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
      "How far each linear layer's output is from the reference's, the errors of earlier layers included, as a "
      "signal-to-noise ratio: every 6 dB more is half the error. Hollow: no error at all. Block: one layer of the "
      "transformer, from 0.");
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
  page.verdict(verdict(report));
  page.tiles(tiles_of(report));
  page.warnings(report.warnings);
  if (!report.result.sets.empty()) {
    page.section("Loss");
    page.add(loss_table(report.result.sets));
    page.terms(loss_terms(report.result.sets));
  }
  if (report.answers != nullptr) {
    add_generation(page, *report.answers);
  }
  add_formats(page, report);
  add_layers(page, report);
  add_sizes(page, report);
  if (report.calibration != nullptr) {
    add_calibration(page, *report.calibration);
  }
  Facts facts;
  if (!report.data.empty()) {
    facts.emplace_back("Data", report.data);
  }
  if (report.answers != nullptr) {
    facts.emplace_back("Prompts", report.prompts);
  }
  if (!report.reference.empty()) {
    facts.emplace_back("Reference", report.reference);
  }
  add_provenance(page, report.model, report.provenance, facts);
  return page.render();
}

}  // namespace diffulex_edge
