#include "core/thread_pool.h"

#include <pthread.h>

#include <chrono>
#include <cstdlib>
#include <new>
#include <system_error>

namespace diffulex_edge {
namespace {

constexpr std::chrono::microseconds kLookout{50};
constexpr int kLooksBetweenTimes = 32;

void relax() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

// Until `is_there`, but not for long.
template <typename Condition>
void look_out_for(const Condition& is_there) {
  const auto end = std::chrono::steady_clock::now() + kLookout;
  do {
    for (int i = 0; i < kLooksBetweenTimes; ++i) {
      if (is_there()) {
        return;
      }
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
}

}  // namespace

ThreadPool* ThreadPool::pool_ = nullptr;

ThreadPool& ThreadPool::instance() {
  static const bool is_ready = [] {
    pool_ = new ThreadPool;  // never destroyed: a thread that outlives main() may still come to it
    static_cast<void>(std::atexit([] { pool_->stop(); }));
    pthread_atfork([] { pool_->mutex_.lock(); }, [] { pool_->mutex_.unlock(); }, replace_after_fork);
    return true;
  }();
  static_cast<void>(is_ready);
  return *pool_;
}

// Only the thread that forked is in the child, and fork() was called with the lock held: the state is whole.
void ThreadPool::replace_after_fork() {
  pool_->mutex_.unlock();
  auto* pool = new ThreadPool;
  pool->parents_ = pool_;
  pool_ = pool;
}

bool ThreadPool::is_ending() { return pool_ != nullptr && pool_->is_stopped_; }

std::size_t ThreadPool::size() {
  ThreadPool& pool = instance();
  const std::scoped_lock lock(pool.mutex_);
  return pool.threads_.size();
}

void ThreadPool::run(std::size_t threads, const std::function<void(std::size_t)>& work) {
  if (threads <= 1) {
    work(0);
    return;
  }
  ThreadPool& pool = instance();
  Job job;
  job.work = &work;
  job.threads = threads;
  pool.add(job);
  work(0);
  std::unique_lock lock(pool.mutex_);
  pool.unlink(job);
  if (job.inside != 0) {
    lock.unlock();
    look_out_for([&] { return job.inside == 0; });
    lock.lock();
  }
  job.left.wait(lock, [&] { return job.inside == 0; });
}

void ThreadPool::add(Job& job) {
  const std::scoped_lock lock(mutex_);
  if (is_stopped_) {
    return;
  }
  start_threads(job.threads - 1);
  job.before = last_;
  (last_ == nullptr ? first_ : last_->after) = &job;
  last_ = &job;
  ++jobs_;
  for (std::size_t i = 1; i < job.threads && i <= threads_.size(); ++i) {
    has_work_.notify_one();
  }
}

// Once for good: what is not in the list stays as it is.
void ThreadPool::unlink(Job& job) {
  const bool is_linked = first_ == &job || job.before != nullptr;
  if (!is_linked) {
    return;
  }
  (job.before == nullptr ? first_ : job.before->after) = job.after;
  (job.after == nullptr ? last_ : job.after->before) = job.before;
  job.before = nullptr;
  job.after = nullptr;
  --jobs_;
}

void ThreadPool::start_threads(std::size_t wanted) {
  while (threads_.size() < wanted && start_thread()) {
  }
}

// False where the system gives no more.
bool ThreadPool::start_thread() {
  try {
    threads_.emplace_back([this] { serve(); });
    return true;
  } catch (const std::system_error&) {
    return false;
  } catch (const std::bad_alloc&) {
    return false;
  }
}

void ThreadPool::serve() {
  std::unique_lock lock(mutex_);
  while (true) {
    has_work_.wait(lock, [&] { return first_ != nullptr || is_stopped_; });
    if (is_stopped_) {
      return;
    }
    Job& job = *first_;
    const std::size_t worker = job.next_worker++;
    ++job.inside;
    if (job.next_worker == job.threads) {
      unlink(job);
    }
    lock.unlock();
    (*job.work)(worker);
    lock.lock();
    if (--job.inside == 0) {
      job.left.notify_one();  // with the lock held: the job is gone once its caller has it
    }
    lock.unlock();
    look_out_for([&] { return jobs_ != 0 || is_stopped_; });
    lock.lock();
  }
}

void ThreadPool::stop() {
  {
    const std::scoped_lock lock(mutex_);
    is_stopped_ = true;
  }
  has_work_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.get_id() == std::this_thread::get_id()) {  // exit() was called by a work item
      thread.detach();
    } else {
      thread.join();
    }
  }
}

}  // namespace diffulex_edge
