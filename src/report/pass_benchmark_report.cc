#include "report/pass_benchmark_report.h"

#include <nlohmann/json.hpp>

#include "core/printable.h"
#include "report/description.h"
#include "report/text_table.h"

namespace diffulex_edge {
namespace {

using BenchmarkJson = nlohmann::ordered_json;

double per_second(std::int64_t count, double seconds) {
  return seconds > 0.0 ? static_cast<double>(count) / seconds : 0.0;
}

double gigabytes_per_second(const PassTiming& timing) { return per_second(timing.bytes, timing.seconds.median) / 1e9; }

// Tokens a second where a block of a pass's tokens takes so many passes.
double decoding_speed(const PassTiming& timing, std::int64_t passes) {
  return per_second(timing.tokens, timing.seconds.median * static_cast<double>(passes));
}

void add_spread(BenchmarkJson& json, const std::string& name, const Spread& seconds) {
  json[name] = 1e3 * seconds.median;
  json[name + "_range"] = {1e3 * seconds.least, 1e3 * seconds.greatest};
}

std::string range_of(const Spread& seconds) {
  return format_number(1e3 * seconds.least, 1) + " to " + format_number(1e3 * seconds.greatest, 1);
}

std::string format_of(const PassBenchmarkReport& report) {
  return report.plan == nullptr ? "as stored" : describe(report.plan->config);
}

std::string prefill_text(const PassBenchmark& result) {
  if (result.prefills.empty()) {
    return {};
  }
  TextTable table({"prefill", "ms", "range", "tokens/s"});
  for (const PrefillTiming& timing : result.prefills) {
    table.add({format_count(timing.tokens), format_number(1e3 * timing.seconds.median, 0), range_of(timing.seconds),
               format_number(per_second(timing.tokens, timing.seconds.median), 1)});
  }
  return table.render() + "\n";
}

}  // namespace

std::string to_json(const PassBenchmarkReport& report) {
  const PassBenchmark& result = report.result;
  BenchmarkJson json{{"success", true},
                     {"model", report.model.path.string()},
                     {"family", report.model.config.family},
                     {"dtype", report.plan == nullptr ? "as stored" : dtype_name(report.plan->config)},
                     {"processor", report.processor},
                     {"instruction_set", report.instruction_set},
                     {"threads", report.threads},
                     {"rows", report.options.last_row ? "last" : "all"},
                     {"cache_dtype", to_string(report.options.cache_dtype)},
                     {"weight_bytes", result.weight_bytes},
                     {"cache_bytes", result.cache_bytes},
                     {"repetitions", result.repetitions}};
  if (report.plan != nullptr) {
    json["mode"] = to_string(report.plan->config.mode);
    json["group_size"] = report.plan->config.group_size;
  }
  BenchmarkJson& prefills = json["prefill"] = BenchmarkJson::array();
  for (const PrefillTiming& timing : result.prefills) {
    BenchmarkJson entry{{"tokens", timing.tokens}};
    add_spread(entry, "milliseconds", timing.seconds);
    add_spread(entry, "cpu_milliseconds", timing.cpu_seconds);
    entry["tokens_per_second"] = per_second(timing.tokens, timing.seconds.median);
    entry["repetitions"] = timing.repetitions;
    prefills.push_back(std::move(entry));
  }
  BenchmarkJson& passes = json["passes"] = BenchmarkJson::array();
  for (const PassTiming& timing : result.passes) {
    BenchmarkJson entry{{"context", timing.context}, {"tokens", timing.tokens}};
    add_spread(entry, "milliseconds", timing.seconds);
    add_spread(entry, "cpu_milliseconds", timing.cpu_seconds);
    entry["bytes"] = timing.bytes;
    entry["gigabytes_per_second"] = gigabytes_per_second(timing);
    BenchmarkJson& decoding = entry["decoding"] = BenchmarkJson::array();
    for (const std::int64_t count : report.passes_per_block) {
      decoding.push_back({{"passes_per_block", count}, {"tokens_per_second", decoding_speed(timing, count)}});
    }
    passes.push_back(std::move(entry));
  }
  json["warnings"] = report.warnings;
  return json.dump(2, ' ', false, BenchmarkJson::error_handler_t::replace);
}

std::string to_text(const PassBenchmarkReport& report) {
  const PassBenchmark& result = report.result;
  std::string text = report.model.path.string() + " (" + report.model.config.family + "), " + format_of(report) + "\n" +
                     report.processor + ", " + report.instruction_set + ", " + std::to_string(report.threads) +
                     (report.threads == 1 ? " thread\n" : " threads\n") + "weights " +
                     format_bytes(result.weight_bytes) + ", cache " + format_bytes(result.cache_bytes) + " in " +
                     std::string(to_string(report.options.cache_dtype)) + "; logits of " +
                     (report.options.last_row ? "the last token" : "all tokens") + ", median of " +
                     std::to_string(result.repetitions) + "\n\n" + prefill_text(result);
  std::vector<std::string> header = {"context", "tokens", "ms a pass", "range", "MiB read", "GB/s"};
  for (const std::int64_t count : report.passes_per_block) {
    header.push_back("tokens/s, " + std::to_string(count) + (count == 1 ? " pass a block" : " passes"));
  }
  TextTable table(header);
  for (const PassTiming& timing : result.passes) {
    std::vector<std::string> row = {format_count(timing.context),
                                    format_count(timing.tokens),
                                    format_number(1e3 * timing.seconds.median, 2),
                                    range_of(timing.seconds),
                                    format_number(to_mib(timing.bytes), 1),
                                    format_number(gigabytes_per_second(timing), 2)};
    for (const std::int64_t count : report.passes_per_block) {
      row.push_back(format_number(decoding_speed(timing, count), 1));
    }
    table.add(row);
  }
  text += table.render();
  text.pop_back();
  for (const std::string& warning : report.warnings) {
    text += "\nwarning: " + warning;
  }
  return printable_lines(text);
}

}  // namespace diffulex_edge
