// Text from a model's folder: the library's engine, with options as Python's dataclass has them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "config.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/generation.h"
#include "diffulex_edge/quantization_session.h"
#include "diffusion/text_model.h"
#include "run.h"

namespace nb = nanobind;

namespace diffulex_edge::python {
namespace {

// Writes the attribute `name` of `options` to `target`, where it is not None.
template <typename Value>
void read(nb::handle options, const char* name, Value& target) {
  const nb::object value = options.attr(name);
  if (!value.is_none()) {
    target = nb::cast<Value>(value);
  }
}
template <typename Value>
void read(nb::handle options, const char* name, std::optional<Value>& target) {
  const nb::object value = options.attr(name);
  if (!value.is_none()) {
    target = nb::cast<Value>(value);
  }
}

DiffusionGenerationConfig generation_config(nb::handle options) {
  DiffusionGenerationConfig config;
  read(options, "max_new_tokens", config.max_new_tokens);
  read(options, "steps", config.steps);
  read(options, "steps_per_block", config.steps_per_block);
  read(options, "block_length", config.block_length);
  read(options, "sub_block_length", config.sub_block_length);
  std::optional<std::string> remasking;
  read(options, "remasking", remasking);
  if (remasking) {
    config.remasking = parse_remasking(*remasking);
  }
  read(options, "threshold", config.threshold);
  read(options, "factor", config.factor);
  read(options, "eb_threshold", config.eb_threshold);
  read(options, "editing_threshold", config.editing_threshold);
  read(options, "max_post_steps", config.max_post_steps);
  read(options, "expand_id", config.expand_id);
  read(options, "initial_masks", config.initial_masks);
  read(options, "expand_budget", config.expand_budget);
  read(options, "pad_delete_to_right", config.pad_delete_to_right);
  read(options, "window_size", config.window_size);
  read(options, "entropy_threshold", config.entropy_threshold);
  read(options, "pos_penalty_factor", config.pos_penalty_factor);
  read(options, "temperature", config.temperature);
  read(options, "top_k", config.top_k);
  read(options, "top_p", config.top_p);
  read(options, "min_p", config.min_p);
  read(options, "repetition_penalty", config.repetition_penalty);
  read(options, "seed", config.seed);
  read(options, "eps", config.eps);
  read(options, "alg_temp", config.alg_temp);
  read(options, "cfg_scale", config.cfg_scale);
  read(options, "logits_eos_inf", config.logits_eos_inf);
  read(options, "confidence_eos_eot_inf", config.confidence_eos_eot_inf);
  read(options, "eos_ids", config.eos_ids);
  read(options, "eot_id", config.eot_id);
  read(options, "ignore_eos", config.ignore_eos);
  config.cache = parse_cache_kind(nb::cast<std::string>(options.attr("cache")));
  read(options, "cache_refresh", config.cache_refresh);
  config.cache_dtype = parse_cache_dtype(nb::cast<std::string>(options.attr("cache_dtype")));
  return config;
}

// As an export for `backend` quantizes it; without a configuration, as it is stored.
QuantizationRequest quantization_request(const Model& model, const std::string& backend,
                                         const std::optional<QuantizationConfig>& wanted) {
  const auto chosen = BackendRegistry::instance().create(
      backend, {.quant_config = wanted ? *wanted : default_quantization_config(model)});
  chosen->check_config();
  return {.config = chosen->quantization(), .target = chosen->arithmetic(), .calibration = {}, .known = {}};
}

// What one call writes.
struct Call {
  GenerationRequest request;
  std::optional<TextStream> text;
  GenerationResult result;
};

nb::dict describe(const Call& call) {
  nb::dict result;
  const auto set = [&result](const char* name, const auto& value) { result[name] = nb::cast(value); };
  set("text", call.text ? std::optional(call.text->text()) : std::nullopt);
  set("tokens", call.result.tokens);
  set("prompt_tokens", call.result.prompt_tokens);
  set("forward_passes", call.result.forward_passes);
  set("cache_bytes", call.result.cache_bytes);
  set("seconds", call.result.seconds);
  set("seconds_to_first_block", call.result.seconds_to_first_block);
  set("stopped", std::string(to_string(call.result.stopped)));
  return result;
}

// Whoever executes the model.
using Write = std::function<GenerationResult(const GenerationRequest&, const GenerationCallback&, const RunControl&)>;

// What Python asks for, with the tokens that end a text where its options name none.
struct Wanted {
  std::optional<std::string> prompt;
  std::optional<std::vector<std::int64_t>> prompt_ids;
  std::string suffix;
  nb::object options;
  std::vector<std::string> stops;
  nb::object on_text;
  std::vector<std::int64_t> eos_ids;
  std::optional<std::int64_t> expand_id;
};

// What remains to be done with a request whose prompt is a text.
using Frame = std::function<void(GenerationRequest&)>;

nb::dict write_text(const TextTokens& model, Wanted wanted, int threads, const Write& write, const Frame& frame = {}) {
  auto& [prompt, prompt_ids, suffix, options, stops, on_text, eos_ids, expand_id] = wanted;
  Call call{.request = {.prompt = {}, .suffix = {}, .config = generation_config(options)}, .text = {}, .result = {}};
  call.request.prompt = prompt_ids ? std::move(*prompt_ids) : model.encode_prompt(prompt.value_or(""));
  if (!suffix.empty()) {
    call.request.suffix = model.tokenizer().encode(suffix);
  }
  if (options.attr("eos_ids").is_none()) {
    call.request.config.eos_ids = std::move(eos_ids);
  }
  if (nb::cast<bool>(options.attr("fixed_length"))) {
    if (call.request.config.expand_id) {
      throw Error(ErrorCode::kInvalidArgument, "expand_id", "is given beside fixed_length", "give one of them");
    }
  } else if (!call.request.config.expand_id) {
    call.request.config.expand_id = expand_id;
  }
  if (prompt && frame) {
    frame(call.request);
  }
  if (model.has_tokenizer() || !stops.empty()) {
    call.text.emplace(model.stream(std::move(stops)));
  }
  std::exception_ptr raised;  // by Python, in on_text
  const auto give = [&](const std::string& text) {
    if (on_text.is_none() || text.empty()) {
      return true;
    }
    const nb::gil_scoped_acquire lock;
    try {
      return nb::cast<bool>(on_text(text));
    } catch (...) {
      raised = std::current_exception();
      return false;
    }
  };
  run_stoppable(threads, nb::none(), [&](const RunControl& control) {
    call.result = write(
        call.request,
        [&](const GenerationState& state) {
          const std::span new_tokens =
              state.tokens.subspan(static_cast<std::size_t>(state.begin), static_cast<std::size_t>(state.written));
          return !call.text || (give(call.text->take(new_tokens)) && !call.text->is_stopped());
        },
        control);
    if (call.text && !raised) {
      give(call.text->finish());
    }
  });
  if (raised) {
    std::rethrow_exception(raised);
  }
  return describe(call);
}

nb::dict generate(const TextModel& model, std::optional<std::string> prompt,
                  std::optional<std::vector<std::int64_t>> prompt_ids, std::string suffix, nb::object options,
                  std::vector<std::string> stops, nb::object on_text, int threads) {
  Wanted wanted{.prompt = std::move(prompt),
                .prompt_ids = std::move(prompt_ids),
                .suffix = std::move(suffix),
                .options = std::move(options),
                .stops = std::move(stops),
                .on_text = std::move(on_text),
                .eos_ids = model.eos_ids(),
                .expand_id = model.expand_id()};
  return write_text(
      model, std::move(wanted), threads,
      [&](const GenerationRequest& request, const GenerationCallback& callback, const RunControl& control) {
        return model.engine().generate(request, callback, control);
      },
      [&](GenerationRequest& request) { model.frame(request); });
}

// Text with an artefact that Python executes.
class TextArtefact : public TextTokens {
 public:
  TextArtefact(const std::string& folder, ArtefactFacts facts, std::vector<std::int64_t> eos_ids)
      : TextTokens(folder), facts_(std::move(facts)), eos_ids_(std::move(eos_ids)) {}

  // `step(tokens int64 [B], start, sees, rows int64 [R])` returns logits float32 [R, vocab].
  nb::dict generate(const nb::callable& step, std::optional<std::string> prompt,
                    std::optional<std::vector<std::int64_t>> prompt_ids, std::string suffix, nb::object options,
                    std::vector<std::string> stops, nb::object on_text) const {
    using Ids = nb::ndarray<nb::numpy, const std::int64_t, nb::ndim<1>>;
    using Logits = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
    const auto ids = [](std::span<const std::int64_t> values) { return Ids(values.data(), {values.size()}); };
    std::exception_ptr raised;  // by Python, in step
    const StepFunction call = [&](const ForwardStep& wanted, std::span<float> logits) {
      const nb::gil_scoped_acquire lock;
      try {
        // Copies: the step's memory is another's when it is over.
        const nb::object tokens = nb::cast(ids(wanted.tokens), nb::rv_policy::copy);
        const nb::object rows = nb::cast(ids(wanted.rows), nb::rv_policy::copy);
        const auto found = nb::cast<Logits>(step(tokens, wanted.start, wanted.sees, rows));
        if (found.shape(0) * found.shape(1) != logits.size()) {
          throw Error(ErrorCode::kInvalidArgument, "step",
                      "gave logits [" + std::to_string(found.shape(0)) + ", " + std::to_string(found.shape(1)) +
                          "] for " + std::to_string(wanted.rows.size()) + " rows");
        }
        std::copy_n(found.data(), logits.size(), logits.data());
      } catch (const nb::python_error&) {
        raised = std::current_exception();
        throw Error(ErrorCode::kCancelled, {}, "stopped");
      }
    };
    Wanted wanted{.prompt = std::move(prompt),
                  .prompt_ids = std::move(prompt_ids),
                  .suffix = std::move(suffix),
                  .options = std::move(options),
                  .stops = std::move(stops),
                  .on_text = std::move(on_text),
                  .eos_ids = eos_ids_,
                  .expand_id = {}};
    try {
      return write_text(
          *this, std::move(wanted), 1,
          [&](const GenerationRequest& request, const GenerationCallback& callback, const RunControl& control) {
            return diffulex_edge::generate(facts_, call, request, callback, control);
          });
    } catch (const Error&) {
      if (raised) {
        std::rethrow_exception(raised);
      }
      throw;
    }
  }

 private:
  ArtefactFacts facts_;
  std::vector<std::int64_t> eos_ids_;
};

}  // namespace

void bind_generation(nb::module_& module) {
  nb::class_<TextTokens>(module, "TextTokens", "The tokenizer and chat template of a folder.")
      .def(
          "encode_chat",
          [](const TextTokens& self, const std::string& messages, const std::string& tools,
             const std::string& variables) {
            return self.tokenizer().encode(self.chat_template().render(
                messages, {.add_generation_prompt = true, .tools = tools, .variables = variables}));
          },
          nb::arg("messages"), nb::arg("tools"), nb::arg("variables"));

  nb::class_<TextModel, TextTokens>(module, "TextModel", "A folder's model with packed weights, and its tokenizer.")
      .def(
          "__init__",
          [](TextModel* self, const std::string& folder, std::optional<std::int64_t> seq_len,
             std::optional<std::int64_t> block_length, std::optional<std::int64_t> mask_token_id,
             std::vector<std::string> ignored_config_keys, std::optional<std::string> adapter,
             const std::string& backend, const nb::object& quant_config, const std::string& pack_cache, int threads,
             const nb::object& progress) {
            std::optional<QuantizationConfig> wanted;
            if (!quant_config.is_none()) {
              wanted = to_cpp(quant_config);
            }
            const ModelOptions options{.seq_len = seq_len,
                                       .block_length = block_length,
                                       .mask_token_id = mask_token_id,
                                       .ignored_config_keys = std::move(ignored_config_keys),
                                       .adapter = std::move(adapter)};
            run_stoppable(threads, progress, [&](const RunControl& control) {
              new (self) TextModel(
                  folder, options, [&](const Model& model) { return quantization_request(model, backend, wanted); },
                  control, pack_cache);
            });
          },
          nb::arg("folder"), nb::arg("seq_len").none(), nb::arg("block_length").none(), nb::arg("mask_token_id").none(),
          nb::arg("ignored_config_keys"), nb::arg("adapter").none(), nb::arg("backend"), nb::arg("quant_config").none(),
          nb::arg("pack_cache"), nb::arg("threads"), nb::arg("progress").none())
      .def("generate", &generate, nb::arg("prompt").none(), nb::arg("prompt_ids").none(), nb::arg("suffix"),
           nb::arg("options"), nb::arg("stops"), nb::arg("on_text").none(), nb::arg("threads"))
      .def_prop_ro("family", [](const TextModel& self) { return self.engine().config().family; })
      .def_prop_ro("vocab_size", [](const TextModel& self) { return self.engine().config().vocab_size; })
      .def_prop_ro("block_length", [](const TextModel& self) { return self.engine().config().block_length; })
      .def_prop_ro("max_tokens", [](const TextModel& self) { return self.engine().max_tokens(); })
      .def_prop_ro("weight_bytes", [](const TextModel& self) { return self.engine().weight_bytes(); })
      .def_prop_ro("eos_ids", &TextModel::eos_ids)
      .def_prop_ro("warnings", &TextModel::warnings);

  nb::class_<TextArtefact, TextTokens>(module, "TextArtefact",
                                       "A model that Python executes, and the tokenizer of a folder.")
      .def(
          "__init__",
          [](TextArtefact* self, const std::string& folder, const std::string& family, std::int64_t vocab_size,
             std::int64_t block_length, std::optional<std::int64_t> mask_token_id, std::vector<std::int64_t> eos_ids,
             std::int64_t max_tokens, std::int64_t max_step_tokens, bool has_cache) {
            ArtefactFacts facts{.max_tokens = max_tokens, .max_step_tokens = max_step_tokens, .has_cache = has_cache};
            facts.config.family = family;
            facts.config.vocab_size = vocab_size;
            facts.config.block_length = block_length;
            facts.config.mask_token_id = mask_token_id;
            new (self) TextArtefact(folder, std::move(facts), std::move(eos_ids));
          },
          nb::arg("folder"), nb::arg("family"), nb::arg("vocab_size"), nb::arg("block_length"),
          nb::arg("mask_token_id").none(), nb::arg("eos_ids"), nb::arg("max_tokens"), nb::arg("max_step_tokens"),
          nb::arg("has_cache"))
      .def("generate", &TextArtefact::generate, nb::arg("step"), nb::arg("prompt").none(), nb::arg("prompt_ids").none(),
           nb::arg("suffix"), nb::arg("options"), nb::arg("stops"), nb::arg("on_text").none());
}

}  // namespace diffulex_edge::python
