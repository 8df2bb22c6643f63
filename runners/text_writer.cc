#include "text_writer.h"

#include <utility>
#include <vector>

#include "diffulex_edge/error.h"
#include "diffusion/bundled_generation.h"

namespace diffulex_edge::runner {
namespace {

Bundle opened(const std::filesystem::path& folder, bool trusts_files) {
  Bundle bundle = read_bundle(folder);
  if (!trusts_files) {
    check_files(bundle);
  }
  return bundle;
}

// generation.json is what decoding goes by, the artefact is what computes.
void check_agreement(const Bundle& bundle, const BundledModel& found) {
  const BundledModel& said = bundle.model;
  const auto check = [&](const char* what, bool is_equal) {
    if (!is_equal) {
      throw Error(ErrorCode::kBadFile, bundle.artefact_path().string(),
                  std::string("contradicts ") + std::string(kBundleFile) + " in '" + what + "'",
                  "make the bundle anew");
    }
  };
  check("family", said.family == found.family);
  check("vocab_size", said.vocab_size == found.vocab_size);
  check("block_length", said.block_length == found.block_length);
  check("mask_token_id", said.mask_token_id == found.mask_token_id);
  check("max_tokens", said.max_tokens == found.max_tokens);
  check("max_step_tokens", said.max_step_tokens == found.max_step_tokens);
  check("cache", said.cache == found.cache);
  check("logits", said.logits == found.logits);
}

}  // namespace

TextWriter::TextWriter(const std::filesystem::path& folder, bool trusts_files, const Open& open)
    : bundle_(opened(folder, trusts_files)), tokens_(folder), model_(open(bundle_)) {
  static_cast<void>(tokens_.tokenizer());  // says that there is none
  check_agreement(bundle_, model_->facts());
}

DiffusionGenerationConfig TextWriter::config() const { return generation_config(bundle_); }

std::vector<std::int64_t> TextWriter::tokens_of(const TextRequest& request) const {
  if (!request.is_chat) {
    return tokens_.encode_prompt(request.prompt);
  }
  const std::vector<ChatMessage> messages{{.role = "user", .content = request.prompt}};
  // The template writes the tokens that begin a sequence itself.
  return tokens_.tokenizer().encode(tokens_.chat_template().render(messages, {.add_generation_prompt = true}));
}

WrittenText TextWriter::write(const TextRequest& request, const std::function<bool(std::string_view)>& give) {
  TextStream stream = tokens_.stream({});
  const auto give_new = [&](const std::string& text) { return text.empty() || give(text); };
  GenerationRequest generation{.prompt = tokens_of(request), .suffix = {}, .config = request.config};
  if (!request.is_chat) {
    frame(generation, bundle_.model.bos_id, bundle_.model.eos_ids);
  }
  WrittenText written;
  written.result = generate(
      artefact_facts(bundle_.model),
      [&](const ForwardStep& step, std::span<float> logits) { model_->step(step, logits); }, std::move(generation),
      [&](const GenerationState& state) {
        return give_new(stream.take(
            state.tokens.subspan(static_cast<std::size_t>(state.begin), static_cast<std::size_t>(state.written))));
      });
  give_new(stream.finish());
  written.text = stream.text();
  return written;
}

}  // namespace diffulex_edge::runner
