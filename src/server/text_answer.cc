#include "server/text_answer.h"

#include <exception>
#include <utility>
#include <vector>

#include "server/api_error.h"

namespace diffulex_edge {

TextAnswer::TextAnswer(const OpenAiRequest& request, const ServedModel& model, std::shared_ptr<HttpReply> reply)
    : head_(make_answer_head(model.name, request.is_chat, request.has_usage)),
      is_stream_(request.is_stream),
      prompt_tokens_(request.generation.prompt.size() + request.generation.suffix.size()),
      reply_(std::move(reply)),
      text_(model.text.stream(request.stops)) {
  if (request.has_canvas) {
    canvas_.emplace(model.text);
  }
}

void TextAnswer::begin() {
  if (!std::exchange(has_begun_, true)) {
    reply_->begin({.content_type = "text/event-stream"});
    reply_->write(first_event(head_));
  }
}

void TextAnswer::give(const std::string& text) {
  if (is_stream_ && !text.empty()) {
    reply_->write(text_event(head_, text));
  }
}

bool TextAnswer::take(const GenerationState& state) {
  if (is_stream_) {
    begin();
  }
  if (canvas_) {
    reply_->write_latest(canvas_event(head_, state.forward_passes, canvas_->take(state)));
  }
  give(
      text_.take(state.tokens.subspan(static_cast<std::size_t>(state.begin), static_cast<std::size_t>(state.written))));
  return !text_.is_stopped();
}

bool TextAnswer::on_pass(const GenerationState& state) {
  try {
    return take(state);
  } catch (const std::exception&) {  // no memory
    has_failed_ = true;
    return false;
  }
}

void TextAnswer::on_end(const GenerationResult& result) {
  if (has_failed_) {
    on_failure(Error(ErrorCode::kOutOfMemory, {}, "out of memory"));
    return;
  }
  const AnswerTokens tokens{.prompt = prompt_tokens_,
                            .completion = result.tokens.size(),
                            .cached = static_cast<std::size_t>(result.cached_tokens)};
  const std::string rest = text_.take(result.tokens) + text_.finish();
  if (!is_stream_) {
    reply_->send({.body = whole_answer(head_, text_.text(), result, tokens)});
    return;
  }
  begin();
  give(rest);
  reply_->write(finish_event(head_, result));
  if (head_.has_usage) {
    reply_->write(usage_event(head_, tokens));
  }
  reply_->write(done_event());
  reply_->end();
}

void TextAnswer::on_failure(const Error& error) {
  const ApiError failure = to_api_error(error);
  if (!has_begun_) {
    reply_->send({.status = failure.status(), .body = failure.to_json()});
    return;
  }
  reply_->write(error_event(failure.to_json()));
  reply_->end();
}

}  // namespace diffulex_edge
