// The hash of a model's files, computed while its weights are written.
#pragma once

#include <functional>
#include <future>
#include <stop_token>
#include <string>

#include "diffulex_edge/model.h"
#include "diffulex_edge/model_hash.h"
#include "diffulex_edge/progress.h"

namespace diffulex_edge {

// Going away stops it.
class BackgroundHash {
 public:
  BackgroundHash(const Model& model, const RunControl& control)
      : on_stop_(control.stop, [this] { stop_.request_stop(); }),
        hash_(std::async(std::launch::async, [&model, threads = control.threads, stop = stop_.get_token()] {
          return hash_model(model, {.threads = threads, .stop = stop, .on_progress = {}}).sha256;
        })) {}
  ~BackgroundHash() { stop_.request_stop(); }
  BackgroundHash(const BackgroundHash&) = delete;
  BackgroundHash& operator=(const BackgroundHash&) = delete;
  BackgroundHash(BackgroundHash&&) = delete;
  BackgroundHash& operator=(BackgroundHash&&) = delete;

  // ModelHash::sha256. Waits for it; throws what it threw. Once.
  std::string get() { return hash_.get(); }

 private:
  std::stop_source stop_;
  std::stop_callback<std::function<void()>> on_stop_;
  std::future<std::string> hash_;
};

}  // namespace diffulex_edge
