// The answer to one request: what its text's passes become for the client.
#pragma once

#include <memory>
#include <optional>

#include "diffusion/text_stream.h"
#include "server/canvas_pieces.h"
#include "server/http_server.h"
#include "server/openai_requests.h"
#include "server/openai_responses.h"
#include "server/scheduler.h"
#include "server/served_model.h"

namespace diffulex_edge {

class TextAnswer final : public GenerationListener {
 public:
  // `model` must outlive this.
  TextAnswer(const OpenAiRequest& request, const ServedModel& model, std::shared_ptr<HttpReply> reply);

  bool on_pass(const GenerationState& state) override;
  void on_end(const GenerationResult& result) override;
  void on_failure(const Error& error) override;

 private:
  void begin();
  bool take(const GenerationState& state);
  void give(const std::string& text);

  AnswerHead head_;
  bool is_stream_;
  std::size_t prompt_tokens_;
  std::shared_ptr<HttpReply> reply_;
  TextStream text_;
  std::optional<CanvasPieces> canvas_;
  bool has_begun_ = false;
  bool has_failed_ = false;
};

}  // namespace diffulex_edge
