// The process's threads for parallel work: started on demand, kept, asleep while nothing is to be done. A thread that
// has just worked looks out for the next job for some microseconds before it sleeps, and a caller waits likewise:
// waking takes as long as a small multiplication.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace diffulex_edge {

class ThreadPool {
 public:
  // Calls work(worker) on the calling thread with worker 0, and on up to `threads` - 1 others with 1, 2, ...; returns
  // when all that began have returned. `work` divides what there is to do among its calls, must not throw, and may
  // call run() itself. Threads that are missing are started; without them, fewer calls are made.
  static void run(std::size_t threads, const std::function<void(std::size_t worker)>& work);

  // True once the process ends: calls with another worker than 0 leave the rest of their work to it.
  static bool is_ending();

  // Threads of the pool, all callers' apart. For tests.
  static std::size_t size();

 private:
  // Lives on the stack of run(), in a list of those that may take another thread.
  struct Job {
    const std::function<void(std::size_t)>* work = nullptr;
    std::size_t threads = 0;
    std::size_t next_worker = 1;
    std::atomic<std::size_t> inside{0};  // pool threads that are at work; changed with the lock held
    std::condition_variable left;
    Job* before = nullptr;
    Job* after = nullptr;
  };

  static ThreadPool& instance();
  void add(Job& job);
  void unlink(Job& job);
  void start_threads(std::size_t wanted);
  bool start_thread();
  void serve();
  void stop();
  static void replace_after_fork();

  static ThreadPool* pool_;

  std::mutex mutex_;
  std::condition_variable has_work_;
  std::vector<std::thread> threads_;
  Job* first_ = nullptr;
  Job* last_ = nullptr;
  std::atomic<std::size_t> jobs_{0};     // in the list; changed with the lock held
  std::atomic<bool> is_stopped_{false};  // changed with the lock held
  // Of the parent process, whose threads do not exist here: neither used nor destroyed.
  ThreadPool* parents_ = nullptr;
};

}  // namespace diffulex_edge
