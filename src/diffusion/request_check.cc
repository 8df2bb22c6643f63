#include "diffusion/request_check.h"

#include <span>
#include <string>

#include "core/round_up.h"
#include "diffulex_edge/error.h"
#include "diffusion/canvas.h"

namespace diffulex_edge {
namespace {

[[noreturn]] void refuse_length(std::int64_t max_tokens, const GenerationRequest& request) {
  throw Error(ErrorCode::kInvalidArgument, "prompt",
              std::to_string(request.prompt.size() + request.suffix.size()) + " tokens and " +
                  std::to_string(request.config.max_new_tokens) + " new ones are more than the model's " +
                  std::to_string(max_tokens),
              "shorten the prompt, or ask for fewer tokens");
}

DecodingSettings settings_of(const ModelConfig& model, std::int64_t max_tokens, const GenerationRequest& request) {
  std::int64_t new_tokens = request.config.max_new_tokens;
  if (new_tokens > max_tokens) {
    refuse_length(max_tokens, request);
  }
  if (new_tokens == 0 && model.mask_token_id) {
    const Canvas canvas(request.prompt, 0, request.suffix, *model.mask_token_id);
    new_tokens = canvas.end() - canvas.begin();
  }
  return decoding_settings(model, request.config, new_tokens);
}

void check_request(const ModelConfig& model, std::int64_t max_tokens, const GenerationRequest& request,
                   const DecodingSettings& settings) {
  if (request.prompt.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "prompt", "has no token");
  }
  if (!request.suffix.empty() && settings.decoder != DecoderKind::kBidirectional) {
    throw Error(ErrorCode::kUnsupported, "suffix",
                "what is written does not see what comes later in a model of the family " + model.family,
                settings.decoder == DecoderKind::kCausalContext ? "take no cache: all tokens then see one another"
                                                                : "use a bidirectional model, such as LLaDA or Dream");
  }
  for (const auto& tokens : {std::span(request.prompt), std::span(request.suffix)}) {
    for (const std::int64_t id : tokens) {
      if (id < 0 || id >= model.vocab_size) {
        throw Error(ErrorCode::kInvalidArgument, "prompt",
                    "token " + std::to_string(id) + " is not in the vocabulary of " + std::to_string(model.vocab_size));
      }
    }
  }
  if (canvas_length(request, settings) > max_tokens) {
    refuse_length(max_tokens, request);
  }
}

}  // namespace

std::int64_t canvas_length(const GenerationRequest& request, const DecodingSettings& settings) {
  const auto length =
      static_cast<std::int64_t>(request.prompt.size() + request.suffix.size()) + request.config.max_new_tokens;
  if (settings.window) {
    return length + settings.window->size - 1;
  }
  const bool has_any_blocks =
      settings.decoder == DecoderKind::kBidirectional || settings.decoder == DecoderKind::kCausalContext;
  return has_any_blocks ? length : round_up(length, settings.block_length);
}

DecodingSettings checked_settings(const ModelConfig& model, std::int64_t max_tokens, const GenerationRequest& request) {
  DecodingSettings settings = settings_of(model, max_tokens, request);
  check_request(model, max_tokens, request, settings);
  return settings;
}

}  // namespace diffulex_edge
