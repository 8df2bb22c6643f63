#include "server/metrics.h"

#include <sstream>

namespace diffulex_edge {
namespace {

template <typename Value>
void add_metric(std::ostream& text, std::string_view name, std::string_view type, std::string_view help, Value value) {
  text << "# HELP diffulex_edge_" << name << ' ' << help << "\n# TYPE diffulex_edge_" << name << ' ' << type
       << "\ndiffulex_edge_" << name << ' ' << value << '\n';
}

}  // namespace

void ServerMetrics::count_answer(std::string_view path, int status) {
  const std::scoped_lock lock(mutex_);
  ++answers_[{std::string(path), status}];
}

void ServerMetrics::count_pass() {
  const std::scoped_lock lock(mutex_);
  ++passes_;
}

void ServerMetrics::count_cancelled() {
  const std::scoped_lock lock(mutex_);
  ++cancelled_;
}

void ServerMetrics::count_cancelled(const GenerationResult& result) {
  const std::scoped_lock lock(mutex_);
  ++cancelled_;
  sequence_passes_ += static_cast<std::uint64_t>(result.forward_passes);
}

void ServerMetrics::count_finished(const GenerationResult& result) {
  const std::scoped_lock lock(mutex_);
  ++finished_;
  sequence_passes_ += static_cast<std::uint64_t>(result.forward_passes);
  prompt_tokens_ += static_cast<std::uint64_t>(result.prompt_tokens);
  cached_tokens_ += static_cast<std::uint64_t>(result.cached_tokens);
  new_tokens_ += result.tokens.size();
  seconds_ += result.seconds;
  first_seconds_ += result.seconds_to_first_block;
}

std::string ServerMetrics::to_text(const ServerGauges& gauges) const {
  const std::scoped_lock lock(mutex_);
  std::ostringstream text;
  text.precision(12);
  text << "# HELP diffulex_edge_http_requests_total Answers by path and status.\n"
          "# TYPE diffulex_edge_http_requests_total counter\n";
  for (const auto& [key, count] : answers_) {
    text << "diffulex_edge_http_requests_total{path=\"" << key.first << "\",status=\"" << key.second << "\"} " << count
         << '\n';
  }
  add_metric(text, "requests_running", "gauge", "Requests that are being written.", gauges.running);
  add_metric(text, "requests_waiting", "gauge", "Requests in the queue.", gauges.waiting);
  add_metric(text, "sequences", "gauge", "Requests that can be written at once.", gauges.sequences);
  add_metric(text, "connections", "gauge", "Open connections.", gauges.connections);
  add_metric(text, "weight_bytes", "gauge", "Memory of the packed weights.", gauges.weight_bytes);
  add_metric(text, "cache_bytes", "gauge", "Memory of the caches.", gauges.cache_bytes);
  add_metric(text, "requests_finished_total", "counter", "Requests that were written to their end.", finished_);
  add_metric(text, "requests_cancelled_total", "counter", "Requests whose client went away.", cancelled_);
  add_metric(text, "forward_passes_total", "counter", "Passes of the model, each for all requests at once.", passes_);
  add_metric(text, "sequence_passes_total", "counter", "The same, once for each request that has ended.",
             sequence_passes_);
  add_metric(text, "prompt_tokens_total", "counter", "Tokens of the finished requests' prompts.", prompt_tokens_);
  add_metric(text, "cached_tokens_total", "counter", "Those among them that an earlier request had computed.",
             cached_tokens_);
  add_metric(text, "generated_tokens_total", "counter", "Tokens that finished requests wrote.", new_tokens_);
  add_metric(text, "request_seconds_total", "counter", "Time from a request's first pass to its last, added up.",
             seconds_);
  add_metric(text, "first_block_seconds_total", "counter", "Time until a request's first text was final, added up.",
             first_seconds_);
  return text.str();
}

}  // namespace diffulex_edge
