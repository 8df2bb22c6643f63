// One thread that writes the texts of many requests, side by side; those without a place wait in a queue.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>

#include "diffulex_edge/error.h"
#include "diffulex_edge/generation.h"
#include "server/metrics.h"

namespace diffulex_edge {

// Who waits for a text. Called from the scheduler's thread; must not throw.
class GenerationListener {
 public:
  virtual ~GenerationListener() = default;
  // After a pass that wrote a token; false: the text ends here.
  virtual bool on_pass(const GenerationState& state) = 0;
  // One of these ends it, unless it is cancelled.
  virtual void on_end(const GenerationResult& result) = 0;
  virtual void on_failure(const Error& error) = 0;
};

class Scheduler {
 public:
  struct Options {
    GenerationLoop::Options loop;
    std::size_t queue = 64;  // requests that wait
    int threads = 0;
  };
  using Ticket = std::uint64_t;

  // `engine` and `metrics` must outlive this. Errors: those of GenerationLoop.
  Scheduler(const DiffusionEngine& engine, const Options& options, ServerMetrics& metrics);
  // Ends what is being written, as close() does.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;
  Scheduler(Scheduler&&) = delete;
  Scheduler& operator=(Scheduler&&) = delete;

  const Options& options() const { return options_; }

  // Errors: those of GenerationLoop::check().
  void check(const GenerationRequest& request) const;
  // For a request that check() accepts. Nothing where the queue is full, or after close().
  std::optional<Ticket> submit(GenerationRequest request, std::shared_ptr<GenerationListener> listener);
  // Its place is free before the next pass. Does nothing for requests that have ended.
  void cancel(Ticket ticket);
  // Ends every request with Error{kCancelled}, from the scheduler's thread, and takes no more.
  void close();
  bool is_closed() const;

  // Requests that are being written and that wait, and the caches' memory.
  void add_to(ServerGauges& gauges) const;

 private:
  struct Job {
    GenerationRequest request;
    std::shared_ptr<GenerationListener> listener;
    bool is_cancelled = false;
    std::size_t id = 0;  // in the loop
  };

  void run();
  void make_loop();
  void drop_cancelled();
  void admit();
  void step();
  void deliver();
  // Every request that is being written; those that wait as well.
  void fail_running(const Error& error);
  void fail_all(const Error& error);

  const DiffusionEngine& engine_;
  Options options_;
  ServerMetrics& metrics_;
  std::stop_source stop_;

  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::unique_ptr<GenerationLoop> loop_;  // replaced by the thread only
  std::map<Ticket, std::shared_ptr<Job>> running_;
  std::map<Ticket, std::shared_ptr<Job>> waiting_;
  Ticket next_ = 0;
  bool is_closed_ = false;
  std::jthread thread_;
};

}  // namespace diffulex_edge
