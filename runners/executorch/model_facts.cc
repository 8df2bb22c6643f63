#include "executorch/model_facts.h"

#include <optional>
#include <string>
#include <variant>

#include "diffulex_edge/error.h"

namespace diffulex_edge::runner {
namespace {

class Facts {
 public:
  explicit Facts(const Program& program) : program_(program) {}

  template <typename Value>
  std::vector<Value> list(const std::string& name) const {
    std::vector<Value> values;
    if (!program_.has_method(name)) {
      return values;
    }
    for (const Constant& constant : program_.constants(name)) {
      const Value* value = std::get_if<Value>(&constant);
      if (value == nullptr) {
        fail("has a value of another type in its method " + name);
      }
      values.push_back(*value);
    }
    return values;
  }

  template <typename Value>
  std::optional<Value> find(const std::string& name) const {
    const std::vector<Value> values = list<Value>(name);
    return values.empty() ? std::nullopt : std::optional<Value>(values.front());
  }

  template <typename Value>
  Value value(const std::string& name) const {
    const std::optional<Value> found = find<Value>(name);
    if (!found) {
      fail("has no method " + name +
           ": text is written by programs that `diffulex-edge export` made of a model's folder");
    }
    return *found;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw Error(ErrorCode::kBadFile, program_.name(), what); }

  const Program& program_;
};

}  // namespace

BundledModel read_facts(const Program& program) {
  const Facts facts(program);
  return {.family = facts.value<std::string>("get_model_family"),
          .vocab_size = facts.value<std::int64_t>("get_vocab_size"),
          .block_length = facts.value<std::int64_t>("get_block_length"),
          .mask_token_id = facts.find<std::int64_t>("get_mask_id"),
          .eos_ids = facts.list<std::int64_t>("get_eos_ids"),
          .bos_id = facts.find<std::int64_t>("get_bos_id"),
          .has_shifted_logits = facts.value<bool>("use_shifted_logits"),
          .max_tokens = facts.value<std::int64_t>("get_max_context_len"),
          .max_step_tokens = facts.value<std::int64_t>("get_max_seq_len"),
          .step_sizes = {},
          .cache = facts.value<std::string>("get_cache_kind"),
          .logits = facts.value<std::string>("get_logits_kind"),
          .tokenizer_sha256 = facts.find<std::string>("get_tokenizer_hash").value_or("")};
}

}  // namespace diffulex_edge::runner
