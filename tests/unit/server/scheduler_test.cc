#include "server/scheduler.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <vector>

#include "diffulex_edge/model.h"

namespace diffulex_edge {
namespace {

// Waits for what becomes of a request; holds the scheduler's thread at the first pass until it is let on.
class Listener final : public GenerationListener {
 public:
  explicit Listener(bool holds = false) : is_held_(holds) {}

  bool on_pass(const GenerationState&) override {
    std::unique_lock lock(mutex_);
    has_begun_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !is_held_; });
    return true;
  }
  void on_end(const GenerationResult& result) override { end(result.tokens, {}); }
  void on_failure(const Error& error) override { end({}, error.what()); }

  void wait_for_begin() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return has_begun_; });
  }
  void let_on() {
    const std::scoped_lock lock(mutex_);
    is_held_ = false;
    changed_.notify_all();
  }
  void wait_for_end() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return has_ended_; });
  }
  bool has_begun() {
    const std::scoped_lock lock(mutex_);
    return has_begun_;
  }
  const std::vector<std::int64_t>& tokens() const { return tokens_; }
  const std::string& failure() const { return failure_; }

 private:
  void end(const std::vector<std::int64_t>& tokens, const std::string& failure) {
    const std::scoped_lock lock(mutex_);
    tokens_ = tokens;
    failure_ = failure;
    has_ended_ = true;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_held_;
  bool has_begun_ = false;
  bool has_ended_ = false;
  std::vector<std::int64_t> tokens_;
  std::string failure_;
};

class SchedulerTest : public ::testing::Test {
 protected:
  static GenerationRequest request(std::int64_t token, std::int64_t new_tokens = 8) {
    GenerationRequest request{.prompt = {5, token, 30}, .suffix = {}, .config = {}};
    request.config.max_new_tokens = new_tokens;
    return request;
  }
  std::unique_ptr<Scheduler> scheduler(std::size_t sequences, std::size_t queue) {
    return std::make_unique<Scheduler>(
        engine_, Scheduler::Options{.loop = {.capacity = 64, .sequences = sequences}, .queue = queue, .threads = 2},
        metrics_);
  }
  // Once nothing is written and nothing waits.
  static void wait_until_idle(const Scheduler& scheduler) {
    ServerGauges gauges{.running = 1};
    while (gauges.running + gauges.waiting > 0) {
      std::this_thread::yield();
      scheduler.add_to(gauges);
    }
  }

  DiffusionEngine engine_{load_model(std::filesystem::path(DIFFULEX_EDGE_EXAMPLES_DIR) / "tiny-llada", {})};
  ServerMetrics metrics_;
};

TEST_F(SchedulerTest, ManyRequestsGetWhatEachGetsAlone) {
  const auto scheduler = this->scheduler(3, 16);
  std::vector<std::shared_ptr<Listener>> listeners;
  for (std::int64_t token = 10; token < 20; ++token) {
    listeners.push_back(std::make_shared<Listener>());
    ASSERT_TRUE(scheduler->submit(request(token), listeners.back()));
  }
  for (std::size_t i = 0; i < listeners.size(); ++i) {
    listeners[i]->wait_for_end();
    EXPECT_EQ(listeners[i]->tokens(), engine_.generate(request(10 + static_cast<std::int64_t>(i))).tokens);
  }
}

TEST_F(SchedulerTest, AFullQueueTakesNoMore) {
  const auto scheduler = this->scheduler(1, 1);
  const auto first = std::make_shared<Listener>(true);
  ASSERT_TRUE(scheduler->submit(request(10), first));
  first->wait_for_begin();
  const auto second = std::make_shared<Listener>();
  EXPECT_TRUE(scheduler->submit(request(11), second));
  EXPECT_FALSE(scheduler->submit(request(12), std::make_shared<Listener>()));
  first->let_on();
  second->wait_for_end();
  wait_until_idle(*scheduler);
  EXPECT_TRUE(scheduler->submit(request(12), std::make_shared<Listener>()));
}

TEST_F(SchedulerTest, ACancelledRequestFreesItsPlaceBeforeTheNextPass) {
  const auto scheduler = this->scheduler(1, 4);
  const auto first = std::make_shared<Listener>(true);
  const auto ticket = scheduler->submit(request(10, 60), first);
  ASSERT_TRUE(ticket);
  first->wait_for_begin();
  const auto dropped = std::make_shared<Listener>();
  const auto dropped_ticket = scheduler->submit(request(11), dropped);
  ASSERT_TRUE(dropped_ticket);
  const auto second = std::make_shared<Listener>();
  ASSERT_TRUE(scheduler->submit(request(12), second));
  scheduler->cancel(*dropped_ticket);
  scheduler->cancel(*ticket);
  first->let_on();
  second->wait_for_end();
  EXPECT_EQ(second->tokens(), engine_.generate(request(12)).tokens);
  EXPECT_FALSE(dropped->has_begun());
  wait_until_idle(*scheduler);
  const std::string text = metrics_.to_text({});
  EXPECT_NE(text.find("requests_cancelled_total 2\n"), std::string::npos) << text;
  EXPECT_NE(text.find("forward_passes_total 9\n"), std::string::npos) << text;  // one of the first request
}

TEST_F(SchedulerTest, ClosingFailsWhatIsWrittenAndWhatWaits) {
  const auto scheduler = this->scheduler(1, 4);
  const auto first = std::make_shared<Listener>(true);
  const auto second = std::make_shared<Listener>();
  ASSERT_TRUE(scheduler->submit(request(10, 60), first));
  ASSERT_TRUE(scheduler->submit(request(11), second));
  first->wait_for_begin();
  scheduler->close();
  first->let_on();
  for (const auto& listener : {first, second}) {
    listener->wait_for_end();
    EXPECT_NE(listener->failure(), "");
  }
  EXPECT_FALSE(scheduler->submit(request(12), std::make_shared<Listener>()));
}

}  // namespace
}  // namespace diffulex_edge
