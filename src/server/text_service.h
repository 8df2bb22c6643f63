// The endpoints of a server that writes text: OpenAI's, /health, /metrics, and a page to try it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "server/http_server.h"
#include "server/metrics.h"
#include "server/scheduler.h"
#include "server/served_model.h"

namespace diffulex_edge {

class TextService final : public HttpService {
 public:
  struct Options {
    std::string api_key;       // empty: anyone may ask
    bool is_loopback = false;  // then a page that another site's name leads here is refused
  };

  // All must outlive this.
  TextService(const ServedModel& model, Scheduler& scheduler, ServerMetrics& metrics, const HttpServer& server,
              Options options);

  std::optional<HttpResponse> refuse(const HttpHead& head) override;
  void handle(const HttpRequest& request, std::shared_ptr<HttpReply> reply) override;
  void answered(const HttpHead& head, int status) override;
  void close() override { scheduler_.close(); }

 private:
  HttpResponse answer_small(const std::string& path) const;
  void start_text(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply);
  std::string metrics_text() const;

  const ServedModel& model_;
  Scheduler& scheduler_;
  ServerMetrics& metrics_;
  const HttpServer& server_;
  Options options_;
  std::string page_policy_;
  std::int64_t created_;
};

}  // namespace diffulex_edge
