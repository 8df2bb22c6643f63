// A conversation with a model, turn by turn.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "diffulex_edge/chat_template.h"
#include "diffulex_edge/generation.h"
#include "diffulex_edge/progress.h"
#include "diffusion/text_model.h"

namespace diffulex_edge {

// The whole conversation is rendered for every turn, as the model's template wants it. What the cache still holds of
// its beginning is not computed again, where that is exact (see GenerationLoop).
class ChatSession {
 public:
  struct Options {
    std::string system;              // the system's message; empty: none
    std::string template_variables;  // see ChatTemplateOptions
    std::vector<std::string> stops;
    DiffusionGenerationConfig config;
    std::int64_t capacity = 0;  // tokens of a conversation and the answer to come
  };
  // After a pass that wrote a token: the canvas, and the text that is new and final.
  using TextSink = std::function<void(const GenerationState& state, const std::string& text)>;
  struct Answer {
    std::string text;  // all of it
    std::string rest;  // what the sink did not get
    GenerationResult result;
  };

  // `model` must outlive this. Errors: those of GenerationLoop, TextModel::chat_template() and options that the model
  // does not have.
  ChatSession(const TextModel& model, Options options, const RunControl& control);

  // Answers a message; both join the conversation. `goes_on` is asked after each pass: false ends the answer there, and
  // where nothing was written, the conversation is as before. After an Error as well: kInvalidArgument where the
  // conversation is too long or the template does not render it, kBadFile for logits that are not finite.
  Answer answer(const std::string& message, const TextSink& sink, const std::function<bool()>& goes_on);

  // Forgets all but the system's message.
  void reset();
  const std::vector<ChatMessage>& messages() const { return messages_; }
  std::int64_t cache_bytes() const { return loop_.cache_bytes(); }

  // {"messages": [{"role": ..., "content": ...}, ...]}, which OpenAI's API takes too.
  std::string to_json() const;
  // Goes on with a conversation that to_json() gave, in place of this one. Throws Error{kBadFile}; then nothing has
  // changed.
  void load(const std::filesystem::path& file);

 private:
  std::vector<std::int64_t> prompt_with(const std::string& message) const;

  const TextModel& model_;
  Options options_;
  ChatTemplate template_;
  std::vector<ChatMessage> messages_;
  GenerationLoop loop_;
};

}  // namespace diffulex_edge
