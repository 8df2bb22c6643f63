#include "diffusion/text_tokens.h"

#include <utility>

#include "diffulex_edge/error.h"
#include "model_files/model_files.h"

namespace diffulex_edge {

ChatTemplate required_chat_template(const std::filesystem::path& folder) {
  std::optional<ChatTemplate> found = ChatTemplate::find(folder);
  if (!found) {
    throw Error(ErrorCode::kBadFile, folder.string(), "has no chat template",
                "put chat_template.jinja beside the weights, or give the whole prompt as text to `generate`");
  }
  return *std::move(found);
}

void frame(GenerationRequest& request, std::optional<std::int64_t> bos_id, const std::vector<std::int64_t>& eos_ids) {
  if (!request.config.expand_id) {
    return;
  }
  if (bos_id && (request.prompt.empty() || request.prompt.front() != *bos_id)) {
    request.prompt.insert(request.prompt.begin(), *bos_id);
  }
  if (!eos_ids.empty() && (request.suffix.empty() || request.suffix.back() != eos_ids.front())) {
    request.suffix.push_back(eos_ids.front());
  }
}

TextTokens::TextTokens(const std::filesystem::path& folder) : path_(folder.string()) {
  if (!tokenizer_files(folder).empty()) {
    tokenizer_.emplace(folder);
    special_ = tokenizer_->special_ids();
  }
}

const Tokenizer& TextTokens::tokenizer() const {
  if (!tokenizer_) {
    throw Error(ErrorCode::kBadFile, path_, "has no tokenizer (tokenizer.json, or vocab.json and its kin)",
                "give token ids and take some (--prompt-ids with --json), or put the tokenizer beside the weights");
  }
  return *tokenizer_;
}

std::vector<std::int64_t> TextTokens::encode_prompt(std::string_view text) const {
  std::vector<std::int64_t> ids = tokenizer().begin_ids();
  const std::vector<std::int64_t> rest = tokenizer().encode(text);
  ids.insert(ids.end(), rest.begin(), rest.end());
  return ids;
}

TextStream TextTokens::stream(std::vector<std::string> stops) const {
  return {tokenizer(), special_, std::move(stops)};
}

}  // namespace diffulex_edge
