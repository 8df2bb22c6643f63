#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "diffulex_edge/error.h"
#include "diffulex_edge/generation.h"
#include "diffusion/cache_slots.h"
#include "diffusion/decoding_settings.h"
#include "diffusion/generation.h"
#include "diffusion/request_check.h"
#include "runtime/decoding_session.h"

namespace diffulex_edge {
namespace {

// A window of the batch: whose it is, and which of its two.
struct WindowOwner {
  Generation* generation = nullptr;
  std::size_t part = 0;
};

std::size_t slots_of(const GenerationRequest& request) { return request.config.cfg_scale > 0.0 ? 2 : 1; }

}  // namespace

struct DiffusionEngine::State {
  State(const Model& source, const QuantizationPlan* plan, const RunControl& control,
        const std::filesystem::path& packs)
      : model(source), packed(source, plan, control, packs) {
    model.checkpoint.reset();
  }

  Model model;  // without its checkpoint
  PackedModel packed;
};

DiffusionEngine::DiffusionEngine(const Model& model, const QuantizationPlan* plan, const RunControl& control,
                                 const std::filesystem::path& packs)
    : state_(std::make_unique<const State>(model, plan, control, packs)) {}

DiffusionEngine::~DiffusionEngine() = default;
DiffusionEngine::DiffusionEngine(DiffusionEngine&&) noexcept = default;
DiffusionEngine& DiffusionEngine::operator=(DiffusionEngine&&) noexcept = default;

std::vector<GenerationResult> DiffusionEngine::generate(std::span<const GenerationRequest> requests,
                                                        const GenerationCallback& callback,
                                                        const RunControl& control) const {
  if (requests.empty()) {
    return {};
  }
  GenerationLoop::Options options{.capacity = 1, .sequences = 0, .cache_dtype = requests.front().config.cache_dtype};
  for (const GenerationRequest& request : requests) {
    const DecodingSettings settings = checked_settings(state_->model.config, state_->model.seq_len, request);
    options.capacity = std::max(options.capacity, canvas_length(request, settings));
    options.sequences += slots_of(request);
  }
  GenerationLoop loop(*this, options, control);
  std::vector<std::size_t> ids;
  for (const GenerationRequest& request : requests) {
    ids.push_back(loop.add(request, callback));
  }
  while (loop.step()) {
  }
  std::vector<GenerationResult> results;
  results.reserve(ids.size());
  for (const std::size_t id : ids) {
    results.push_back(loop.take(id));
  }
  return results;
}

GenerationResult DiffusionEngine::generate(const GenerationRequest& request, const GenerationCallback& callback,
                                           const RunControl& control) const {
  return std::move(generate(std::span(&request, 1), callback, control).front());
}

std::int64_t DiffusionEngine::cache_bytes(const GenerationRequest& request) const {
  const DecodingSettings settings = checked_settings(state_->model.config, state_->model.seq_len, request);
  return KeyValueCache::bytes(state_->model.graph, {.capacity = canvas_length(request, settings),
                                                    .sequences = slots_of(request),
                                                    .dtype = request.config.cache_dtype});
}

std::int64_t DiffusionEngine::weight_bytes() const { return state_->packed.weight_bytes(); }
const ModelConfig& DiffusionEngine::config() const { return state_->model.config; }
std::int64_t DiffusionEngine::max_tokens() const { return state_->model.seq_len; }

struct GenerationLoop::State {
  State(const DiffusionEngine::State& engine, const Options& wanted, const RunControl& run)
      : model(engine.model),
        options(wanted),
        control(run),
        session(engine.packed,
                {.capacity = wanted.capacity, .sequences = wanted.sequences, .dtype = wanted.cache_dtype}, run),
        slots(wanted.sequences) {}

  // Errors: those of check().
  DecodingSettings checked_settings(const GenerationRequest& request) const {
    const DecodingSettings settings = diffulex_edge::checked_settings(model.config, model.seq_len, request);
    const std::int64_t length = canvas_length(request, settings);
    if (length > options.capacity || slots_of(request) > options.sequences) {
      throw Error(ErrorCode::kInvalidArgument, "prompt",
                  "it and its answer take " + std::to_string(length) + " tokens, the cache has room for " +
                      std::to_string(options.capacity),
                  "shorten the prompt, or ask for fewer tokens");
    }
    if (request.config.cache_dtype != options.cache_dtype) {
      throw Error(ErrorCode::kInvalidArgument, "cache_dtype", "differs among requests that are written side by side");
    }
    return settings;
  }

  std::optional<CacheSlots::Place> find_place(const GenerationRequest& request) const {
    return slots_of(request) > 1 ? slots.find_pair() : slots.find(request.prompt);
  }

  const Model& model;
  Options options;
  RunControl control;
  DecodingSession session;
  CacheSlots slots;
  std::map<std::size_t, std::unique_ptr<Generation>> generations;
  std::size_t next_id = 0;
};

GenerationLoop::GenerationLoop(const DiffusionEngine& engine, const Options& options, const RunControl& control) {
  if (options.capacity < 1 || options.capacity > engine.max_tokens() || options.sequences < 1) {
    throw Error(ErrorCode::kInvalidArgument, "cache",
                std::to_string(options.sequences) + " sequences of " + std::to_string(options.capacity) +
                    " tokens: the model takes 1 to " + std::to_string(engine.max_tokens()));
  }
  state_ = std::make_unique<State>(*engine.state_, options, control);
}

GenerationLoop::~GenerationLoop() = default;
GenerationLoop::GenerationLoop(GenerationLoop&&) noexcept = default;
GenerationLoop& GenerationLoop::operator=(GenerationLoop&&) noexcept = default;

void GenerationLoop::check(const GenerationRequest& request) const {
  static_cast<void>(state_->checked_settings(request));
}

bool GenerationLoop::has_room(const GenerationRequest& request) const {
  return state_->find_place(request).has_value();
}

std::size_t GenerationLoop::add(const GenerationRequest& request, GenerationCallback callback) {
  const DecodingSettings settings = state_->checked_settings(request);
  const std::optional<CacheSlots::Place> place = state_->find_place(request);
  if (!place) {
    throw Error(ErrorCode::kInternal, "request", "was added where there is no room");
  }
  const std::size_t id = state_->next_id++;
  state_->generations[id] = std::make_unique<Generation>(request, settings, id, *place, std::move(callback));
  state_->slots.take(place->first, slots_of(request));
  return id;
}

bool GenerationLoop::step() {
  std::vector<Window> windows;
  std::vector<WindowOwner> owners;
  std::vector<Generation*> active;
  for (const auto& [id, generation] : state_->generations) {
    std::vector<Window> own = generation->windows();
    for (std::size_t part = 0; part < own.size(); ++part) {
      windows.push_back(std::move(own[part]));
      owners.push_back({.generation = generation.get(), .part = part});
    }
    if (!own.empty()) {
      active.push_back(generation.get());
    }
  }
  if (active.empty()) {
    return false;
  }
  state_->session.run(windows, [&](std::size_t window, std::size_t row, std::span<float> logits) {
    owners[window].generation->take_row(owners[window].part, row, logits);
  });
  for (Generation* generation : active) {
    generation->commit(state_->control);
  }
  return true;
}

bool GenerationLoop::is_done(std::size_t id) const { return state_->generations.at(id)->is_done(); }

GenerationResult GenerationLoop::take(std::size_t id) {
  const auto node = state_->generations.extract(id);
  if (node.empty()) {
    throw Error(ErrorCode::kInternal, "request", "number " + std::to_string(id) + " is not there");
  }
  const Generation& generation = *node.mapped();
  state_->slots.release(generation.slot(), generation.slots(), generation.reusable());
  return generation.result(state_->session.cache_bytes());
}

std::int64_t GenerationLoop::cache_bytes() const { return state_->session.cache_bytes(); }

}  // namespace diffulex_edge
