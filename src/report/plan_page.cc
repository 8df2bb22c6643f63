// What `plan` chose, as a page.

#include <algorithm>
#include <map>

#include "core/join.h"
#include "diffulex_edge/report.h"
#include "quant/layer_formats.h"
#include "report/chart.h"
#include "report/description.h"
#include "report/html_page.h"
#include "report/layer_charts.h"
#include "report/provenance.h"
#include "report/svg.h"
#include "report/text_table.h"
#include "report/verdict.h"

namespace diffulex_edge {
namespace {

struct DtypeUse {
  std::int64_t layers = 0;
  std::int64_t parameters = 0;
};

// Of the types that the plan uses, from FP32 on.
std::map<QuantizationDtype, DtypeUse> dtypes_used(const PlanReport& report) {
  std::map<QuantizationDtype, DtypeUse> uses;
  for (const LayerSensitivity& unit : report.sensitivity) {
    DtypeUse& use = uses[report.plan.format_of(unit).dtype];
    use.layers += static_cast<std::int64_t>(unit.layers.size());
    use.parameters += unit.parameters;
  }
  return uses;
}

std::vector<Tile> tiles_of(const PlanReport& report) {
  const MixedPrecisionPlan& plan = report.plan;
  std::string aim = "the smallest for this loss";
  if (report.target_size_bytes) {
    aim = "of " + format_bytes(*report.target_size_bytes) + " asked for";
  }
  std::vector<Tile> tiles = {{.name = "File", .value = format_bytes(plan.file_bytes), .note = aim}};
  if (plan.measured_kl_divergence) {
    tiles.push_back({.name = "KL divergence",
                     .value = svg::number(*plan.measured_kl_divergence),
                     .note = "nats a token, measured; " + svg::number(plan.kl_divergence) + " as a sum"});
  } else {
    tiles.push_back({.name = "KL divergence",
                     .value = svg::number(plan.kl_divergence),
                     .note = "nats a token, the sum of the layers'"});
  }
  for (const auto& [dtype, use] : dtypes_used(report)) {
    tiles.push_back({.name = std::string(to_string(dtype)),
                     .value = format_count(use.layers),
                     .note = "layers, " + format_count(use.parameters) + " parameters"});
  }
  return tiles;
}

ChartPoint size_point(const MixedPrecisionPlan& plan, const std::string& label) {
  return {.x = to_mib(plan.file_bytes),
          .y = plan.kl_divergence,
          .label = label,
          .tooltip = (label.empty() ? "best plan" : label) + ": " + format_bytes(plan.file_bytes) + ", KL " +
                     svg::number(plan.kl_divergence)};
}

// Up to FP16: beyond it nothing is lost, and the axis would be for that only.
ScatterChart size_chart(const PlanReport& report) {
  const auto fp16 = std::ranges::find(report.uniform, "fp16", &UniformPlan::format);
  const std::int64_t most =
      std::max(report.plan.file_bytes, fp16 == report.uniform.end() ? std::int64_t{1} << 62U : fp16->plan.file_bytes);
  ScatterChart chart{.title = "",
                     .x_label = "file (MiB)",
                     .y_label = "sum of the layers' KL divergences (nats a token)",
                     .series = {}};
  ChartSeries best{.name = "best plans", .style = Style::kGrey, .is_line = true, .has_marks = false, .points = {}};
  for (const MixedPrecisionPlan& plan : report.frontier) {
    if (plan.file_bytes <= most) {
      best.points.push_back(size_point(plan, ""));
    }
  }
  chart.series.push_back(std::move(best));
  for (const UniformPlan& uniform : report.uniform) {
    if (uniform.plan.file_bytes <= most) {
      chart.series.push_back({.name = uniform.format,
                              .style = style_of(parse_layer_format(uniform.format).dtype),
                              .points = {size_point(uniform.plan, uniform.format)}});
    }
  }
  chart.series.push_back(
      {.name = "this plan", .style = Style::kPurple, .points = {size_point(report.plan, "this plan")}});
  return chart;
}

const FormatEffect& largest_effect(const LayerSensitivity& unit) {
  return *std::ranges::max_element(unit.formats, {}, &FormatEffect::kl_divergence);
}

ColumnChart sensitivity_chart(const PlanReport& report) {
  ColumnChart chart{.x_label = "block", .y_label = "KL (nats)", .panels = {}, .reference = {}};
  for (const LayerSensitivity& unit : report.sensitivity) {
    const LayerName name = parse_layer_name(unit.layers[0]);
    if (!name.block) {
      continue;
    }
    const FormatEffect& effect = largest_effect(unit);
    const LayerFormat& chosen = report.plan.format_of(unit);
    chart.panel(name.kind).columns.push_back({.position = *name.block,
                                              .value = effect.kl_divergence,
                                              .style = style_of(chosen.dtype),
                                              .tooltip = unit.layers[0] + ": KL " + svg::number(effect.kl_divergence) +
                                                         " in " + to_string(effect.format) + ", chosen " +
                                                         to_string(chosen)});
  }
  return chart;
}

std::string format_legend(const PlanReport& report) {
  std::vector<LegendEntry> entries;
  for (const auto& [dtype, use] : dtypes_used(report)) {
    entries.push_back({.name = "becomes " + std::string(to_string(dtype)), .style = style_of(dtype)});
  }
  return legend(entries, LegendMark::kArea);
}

std::string uniform_table(const PlanReport& report) {
  std::vector<std::vector<std::string>> rows = {
      {"this plan", format_number(to_mib(report.plan.file_bytes), 2), svg::number(report.plan.kl_divergence)}};
  for (const UniformPlan& uniform : report.uniform) {
    rows.push_back(
        {uniform.format, format_number(to_mib(uniform.plan.file_bytes), 2), svg::number(uniform.plan.kl_divergence)});
  }
  return html_table({"format of every layer", "MiB", "KL (nats)"}, rows);
}

std::string layer_table(const PlanReport& report) {
  const std::vector<LayerFormat> formats = all_layer_formats();
  std::vector<std::string> header = {"layer", "parameters", "chosen"};
  for (const LayerFormat& format : formats) {
    header.push_back(to_string(format));
  }
  std::vector<std::vector<std::string>> rows;
  for (const LayerSensitivity& unit : report.sensitivity) {
    std::vector<std::string> row = {join(unit.layers, ", "), format_count(unit.parameters),
                                    to_string(report.plan.format_of(unit))};
    for (const LayerFormat& format : formats) {
      const auto found = std::ranges::find(unit.formats, format, &FormatEffect::format);
      row.push_back(found == unit.formats.end() ? "" : svg::number(found->kl_divergence));
    }
    rows.push_back(std::move(row));
  }
  return html_table(header, rows);
}

}  // namespace

std::string to_html(const PlanReport& report) {
  HtmlPage page(last_part(report.model.path), "Plan, " + describe(report.plan.config));
  page.verdict(verdict(report));
  page.tiles(tiles_of(report));
  page.warnings(report.model.warnings);
  page.section("Loss against size",
               "Points: every layer in one format, or in the next finer one that it can take. The line joins the best "
               "plans of some sizes. Larger files than FP16's are left out. Sums over layers of what each does "
               "on the calibration text; they have no confidence interval, and diffulex-edge evaluate measures a plan "
               "on text that "
               "it was not chosen with.");
  page.add(scatter_chart(size_chart(report)));
  page.details("The figures as a table", uniform_table(report));
  page.terms({{"KL divergence",
               "Kullback-Leibler divergence of the predictions from those of the model in float32, in nats "
               "a token: 0 where they are the same"},
              {"int4_g32", "4-bit integers with a scale for each group of 32 weights; channel: for each output row"}});
  page.section(
      "Sensitivity of each layer",
      "The KL divergence when only this layer is quantized, in the format that changes it most. Colours are the "
      "formats that the plan gives. Block: one layer of the transformer, from 0.");
  page.add(format_legend(report) + column_chart(sensitivity_chart(report)));
  page.details("Every layer and format as a table", layer_table(report));
  add_provenance(page, report.model, report.provenance, {{"Plan", report.output}});
  return page.render();
}

}  // namespace diffulex_edge
