#include "backends/shared_weights.h"

namespace diffulex_edge {

SharedWeights::Key SharedWeights::key_of(const LayerPlan& plan, const WeightFormat& format,
                                         std::string_view layout) const {
  return {distinct_.content_of(plan.tensor), to_string(format) + ", " + std::string(to_string(plan.method)),
          std::string(layout)};
}

std::pair<std::size_t, bool> SharedWeights::add(const LayerPlan& plan, const WeightFormat& format,
                                                std::string_view layout) {
  const auto [position, is_new] = by_key_.emplace(key_of(plan, format, layout), weights_.size());
  if (is_new) {
    weights_.push_back({.source = find_stored_weight(checkpoint_, plan.tensor),
                        .format = format,
                        .method = plan.method,
                        .layer = plan.layer,
                        .importance = plan.importance});
  }
  return {position->second, is_new};
}

std::size_t SharedWeights::find(const LayerPlan& plan, const WeightFormat& format, std::string_view layout) const {
  return by_key_.at(key_of(plan, format, layout));
}

void SharedWeights::stream(const Sink& sink, const RunControl& control,
                           const std::function<bool(std::size_t)>& is_wanted) const {
  std::vector<StreamJob> jobs;
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    if (is_wanted && !is_wanted(i)) {
      continue;
    }
    jobs.push_back({.source = weights_[i].source,
                    .format = weights_[i].format,
                    .method = weights_[i].method,
                    .saturate_fp16 = saturate_fp16_,
                    .importance = weights_[i].importance,
                    .sink = [&sink, i](const EncodedTile& tile) { sink(i, tile); }});
  }
  stream_weights(jobs, control);
}

}  // namespace diffulex_edge
