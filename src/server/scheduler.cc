#include "server/scheduler.h"

#include <algorithm>
#include <exception>
#include <new>
#include <utility>
#include <vector>

namespace diffulex_edge {

Scheduler::Scheduler(const DiffusionEngine& engine, const Options& options, ServerMetrics& metrics)
    : engine_(engine), options_(options), metrics_(metrics) {
  make_loop();
  thread_ = std::jthread([this] { run(); });
}

Scheduler::~Scheduler() {
  close();
  thread_.join();
}

void Scheduler::make_loop() {
  loop_ = std::make_unique<GenerationLoop>(
      engine_, options_.loop,
      RunControl{.threads = options_.threads, .stop = stop_.get_token(), .on_progress = nullptr});
}

void Scheduler::check(const GenerationRequest& request) const {
  const std::scoped_lock lock(mutex_);
  if (loop_) {  // else admit() makes one, and checks
    loop_->check(request);
  }
}

std::optional<Scheduler::Ticket> Scheduler::submit(GenerationRequest request,
                                                   std::shared_ptr<GenerationListener> listener) {
  const std::scoped_lock lock(mutex_);
  const std::size_t free_places = options_.loop.sequences - std::min(options_.loop.sequences, running_.size());
  if (is_closed_ || waiting_.size() >= options_.queue + free_places) {
    return std::nullopt;
  }
  const Ticket ticket = next_++;
  waiting_[ticket] = std::make_shared<Job>(Job{.request = std::move(request), .listener = std::move(listener)});
  work_.notify_one();
  return ticket;
}

void Scheduler::cancel(Ticket ticket) {
  const std::scoped_lock lock(mutex_);
  for (const auto* jobs : {&running_, &waiting_}) {
    if (const auto job = jobs->find(ticket); job != jobs->end()) {
      job->second->is_cancelled = true;
    }
  }
}

void Scheduler::close() {
  const std::scoped_lock lock(mutex_);
  is_closed_ = true;
  stop_.request_stop();
  work_.notify_one();
}

bool Scheduler::is_closed() const {
  const std::scoped_lock lock(mutex_);
  return is_closed_;
}

void Scheduler::add_to(ServerGauges& gauges) const {
  const std::scoped_lock lock(mutex_);
  gauges.running = running_.size();
  gauges.waiting = waiting_.size();
  gauges.sequences = options_.loop.sequences;
  gauges.cache_bytes = loop_ ? loop_->cache_bytes() : 0;
}

void Scheduler::run() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      work_.wait(lock, [this] { return is_closed_ || !running_.empty() || !waiting_.empty(); });
      if (is_closed_) {
        break;
      }
      drop_cancelled();
      admit();
    }
    step();
  }
  fail_all(Error(ErrorCode::kCancelled, {}, "the server is shutting down"));
}

void Scheduler::drop_cancelled() {
  std::erase_if(running_, [this](const auto& entry) {
    const bool is_cancelled = entry.second->is_cancelled;
    if (is_cancelled) {
      metrics_.count_cancelled(loop_->take(entry.second->id));
    }
    return is_cancelled;
  });
  std::erase_if(waiting_, [this](const auto& entry) {
    const bool is_cancelled = entry.second->is_cancelled;
    if (is_cancelled) {
      metrics_.count_cancelled();
    }
    return is_cancelled;
  });
}

void Scheduler::admit() {
  while (!waiting_.empty()) {
    const auto [ticket, job] = *waiting_.begin();
    try {
      if (!loop_) {
        make_loop();
      }
      if (!loop_->has_room(job->request)) {
        return;  // later ones wait too: none is passed over for ever
      }
      GenerationListener& listener = *job->listener;
      job->id = loop_->add(job->request, [&listener](const GenerationState& state) { return listener.on_pass(state); });
      running_[ticket] = job;
    } catch (const Error& error) {
      job->listener->on_failure(error);
    } catch (const std::bad_alloc&) {
      job->listener->on_failure(Error(ErrorCode::kOutOfMemory, {}, "out of memory"));
    }
    waiting_.erase(ticket);
  }
}

void Scheduler::step() {
  if (running_.empty()) {  // only this thread changes it
    return;
  }
  try {
    if (loop_->step()) {
      metrics_.count_pass();
    }
    deliver();
  } catch (const Error& error) {
    fail_running(error);
  } catch (const std::bad_alloc&) {
    fail_running(Error(ErrorCode::kOutOfMemory, {}, "out of memory"));
  } catch (const std::exception& error) {
    fail_running(Error(ErrorCode::kInternal, "internal error", error.what()));
  }
}

void Scheduler::deliver() {
  std::vector<std::pair<std::shared_ptr<Job>, GenerationResult>> ended;
  {
    const std::scoped_lock lock(mutex_);
    for (auto entry = running_.begin(); entry != running_.end();) {
      const std::shared_ptr<Job> job = entry->second;
      if (!job->is_cancelled && loop_->is_done(job->id)) {
        ended.emplace_back(job, loop_->take(job->id));
        entry = running_.erase(entry);
      } else {
        ++entry;
      }
    }
  }
  for (const auto& [job, result] : ended) {
    metrics_.count_finished(result);
    job->listener->on_end(result);
  }
}

// The loop can't go on after an error: the next request begins with another one.
void Scheduler::fail_running(const Error& error) {
  std::map<Ticket, std::shared_ptr<Job>> failed;
  {
    const std::scoped_lock lock(mutex_);
    failed.swap(running_);
    loop_.reset();
    try {
      make_loop();
    } catch (const std::exception&) {
      loop_.reset();  // admit() tries again
    }
  }
  for (const auto& [ticket, job] : failed) {
    job->listener->on_failure(error);
  }
}

void Scheduler::fail_all(const Error& error) {
  std::map<Ticket, std::shared_ptr<Job>> failed;
  {
    const std::scoped_lock lock(mutex_);
    failed.swap(running_);
    failed.merge(waiting_);
  }
  for (const auto& [ticket, job] : failed) {
    job->listener->on_failure(error);
  }
}

}  // namespace diffulex_edge
