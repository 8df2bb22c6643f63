#include "text_reading.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace diffulex_edge::fuzz {

void use_tokenizer(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::int64_t> ids = tokenizer.encode(text);
  if (std::ranges::any_of(ids, [&](std::int64_t id) { return id < 0 || id >= tokenizer.vocab_size(); })) {
    throw std::logic_error("an id is not in the vocabulary");
  }
  ids.insert(ids.end(), {0, -1, 1, 2, tokenizer.vocab_size() - 1, tokenizer.vocab_size(), INT64_MAX});
  static_cast<void>(tokenizer.decode(ids));
  static_cast<void>(tokenizer.decode_settled(ids));
  static_cast<void>(tokenizer.decode_continuation(ids));
  static_cast<void>(tokenizer.begin_ids());
  static_cast<void>(tokenizer.id_of("a"));
}

void use_template(const ChatTemplate& chat_template) {
  constexpr std::string_view kMessages =
      R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": " What is 6 * 7?\n"},)"
      R"( {"role": "assistant", "content": "<think>\nEasy.\n</think>\n42", "tool_calls":)"
      R"( [{"type": "function", "function": {"name": "multiply", "arguments": {"a": 6, "b": 7.5}}}]},)"
      R"( {"role": "tool", "content": [{"type": "text", "text": "42"}]}, {"role": "user", "content": "Thanks"}])";
  constexpr std::string_view kTools =
      R"([{"type": "function", "function": {"name": "multiply", "description": "Products", "parameters":)"
      R"( {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a"]}}}])";
  static_cast<void>(chat_template.render(kMessages, {.add_generation_prompt = true,
                                                     .tools = std::string(kTools),
                                                     .variables = R"({"enable_thinking": false})",
                                                     .now = std::chrono::system_clock::time_point()}));
}

}  // namespace diffulex_edge::fuzz
