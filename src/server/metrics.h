// What a server counts, as Prometheus reads it.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "diffulex_edge/generation.h"

namespace diffulex_edge {

// What there is at a moment.
struct ServerGauges {
  std::size_t running = 0;
  std::size_t waiting = 0;
  std::size_t sequences = 0;
  std::size_t connections = 0;
  std::int64_t weight_bytes = 0;
  std::int64_t cache_bytes = 0;
};

// Any thread may call.
class ServerMetrics {
 public:
  void count_answer(std::string_view path, int status);
  void count_pass();
  // Of a request that waited, or that was being written.
  void count_cancelled();
  void count_cancelled(const GenerationResult& result);
  void count_finished(const GenerationResult& result);

  // The text format: https://prometheus.io/docs/instrumenting/exposition_formats/
  std::string to_text(const ServerGauges& gauges) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, std::uint64_t> answers_;
  std::uint64_t passes_ = 0;
  std::uint64_t sequence_passes_ = 0;
  std::uint64_t cancelled_ = 0;
  std::uint64_t finished_ = 0;
  std::uint64_t prompt_tokens_ = 0;
  std::uint64_t cached_tokens_ = 0;
  std::uint64_t new_tokens_ = 0;
  double seconds_ = 0.0;
  double first_seconds_ = 0.0;
};

}  // namespace diffulex_edge
