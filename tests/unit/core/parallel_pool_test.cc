// The process's threads: kept between calls, shared by callers, missing ones, and what a forked child has of them.
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <set>
#include <thread>
#include <vector>

#include "core/parallel.h"
#include "core/thread_pool.h"

namespace diffulex_edge {
namespace {

// The threads that take part when each item waits until `count` of them have one.
std::set<std::thread::id> meet(int count) {
  std::mutex mutex;
  std::condition_variable all_here;
  std::set<std::thread::id> threads;
  parallel_for(static_cast<std::size_t>(count), {.threads = count}, [&](std::size_t, std::size_t) {
    std::unique_lock lock(mutex);
    threads.insert(std::this_thread::get_id());
    all_here.notify_all();
    all_here.wait(lock, [&] { return threads.size() == static_cast<std::size_t>(count); });
  });
  return threads;
}

// While it lives, no thread can be started: the stack that each would get by default is larger than the address space.
class NoMoreThreads {
 public:
  NoMoreThreads() {
    pthread_getattr_default_np(&saved_);
    pthread_attr_t huge;
    pthread_attr_init(&huge);
    pthread_attr_setstacksize(&huge, std::size_t{1} << 50U);
    pthread_setattr_default_np(&huge);
    pthread_attr_destroy(&huge);
  }
  ~NoMoreThreads() {
    pthread_setattr_default_np(&saved_);
    pthread_attr_destroy(&saved_);
  }
  NoMoreThreads(const NoMoreThreads&) = delete;
  NoMoreThreads& operator=(const NoMoreThreads&) = delete;

 private:
  pthread_attr_t saved_{};
};

TEST(ThreadPool, KeepsItsThreads) {
  const auto first = meet(4);
  const std::size_t size = ThreadPool::size();
  EXPECT_GE(size, 3U);
  for (int i = 0; i < 100; ++i) {
    std::set<std::thread::id> threads = meet(4);
    EXPECT_TRUE(threads.contains(std::this_thread::get_id()));  // the caller's, at every call
  }
  EXPECT_EQ(ThreadPool::size(), size);
}

TEST(ThreadPool, ServesCallersOnSeveralThreadsAtOnce) {
  std::atomic<std::int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 5; ++caller) {
    callers.emplace_back([&] {
      for (int call = 0; call < 200; ++call) {
        parallel_for(17, {.threads = 3}, [&](std::size_t item, std::size_t worker) {
          EXPECT_LT(worker, 3U);
          sum += static_cast<std::int64_t>(item);
        });
      }
    });
  }
  for (std::thread& caller : callers) {
    caller.join();
  }
  EXPECT_EQ(sum, 5 * 200 * (16 * 17 / 2));
}

TEST(ThreadPool, TakesCallsFromInsideItems) {
  std::atomic<int> done{0};
  parallel_for(8, {.threads = 4}, [&](std::size_t, std::size_t) {
    parallel_for(8, {.threads = 4}, [&](std::size_t, std::size_t) {
      parallel_for(8, {.threads = 4}, [&](std::size_t, std::size_t) { ++done; });
    });
  });
  EXPECT_EQ(done, 512);
}

// Two items that work under one number at once would share their scratch memory.
TEST(ThreadPool, GivesANumberToOneThreadAtATime) {
  std::vector<std::atomic<int>> inside(4);
  parallel_for(2000, {.threads = 4}, [&](std::size_t, std::size_t worker) {
    EXPECT_EQ(++inside[worker], 1);
    --inside[worker];
  });
}

TEST(ThreadPool, WorksWithTheThreadsThatThereAre) {
  const int wanted = static_cast<int>(ThreadPool::size()) + 4;
  {
    const NoMoreThreads none;
    ASSERT_THROW(std::thread([] {}).join(), std::system_error);
    const std::size_t before = ThreadPool::size();
    std::vector<std::atomic<int>> done(1000);
    parallel_for(done.size(), {.threads = wanted}, [&](std::size_t item, std::size_t) { ++done[item]; });
    for (const auto& count : done) {
      EXPECT_EQ(count, 1);
    }
    EXPECT_EQ(ThreadPool::size(), before);
  }
  EXPECT_EQ(meet(wanted).size(), static_cast<std::size_t>(wanted));  // there are more again
}

TEST(ThreadPool, SleepsWhileThereIsNothingToDo) {
  meet(4);
  timespec before{};
  timespec after{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
  const double used =
      static_cast<double>(after.tv_sec - before.tv_sec) + static_cast<double>(after.tv_nsec - before.tv_nsec) * 1e-9;
  EXPECT_LT(used, 0.1);  // three threads that spin would take 0.3 and more
}

TEST(ThreadPool, AForkedChildHasThreadsOfItsOwn) {
  meet(3);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(60);
    _exit(ThreadPool::size() == 0 && meet(3).size() == 3 && ThreadPool::size() == 2 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(meet(3).size(), 3U);
}

}  // namespace
}  // namespace diffulex_edge
