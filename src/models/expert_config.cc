// What the configurations of families with routed experts have in common.

#include <cmath>

#include "models/architecture.h"

namespace diffulex_edge {

ExpertConfig read_expert_counts(ConfigReader& reader) {
  ExpertConfig experts;
  const auto local = reader.size("num_local_experts");  // as transformers 5 may write it
  experts.count = local ? reader.size("num_experts").value_or(*local) : reader.require_size("num_experts");
  if (local && *local != experts.count) {
    reader.fail("num_local_experts", "is " + std::to_string(*local) + ", num_experts " + std::to_string(experts.count) +
                                         ": they contradict each other");
  }
  experts.route.experts_per_token = reader.require_size("num_experts_per_tok");
  if (experts.route.experts_per_token > experts.count) {
    reader.fail("num_experts_per_tok", "is " + std::to_string(experts.route.experts_per_token) +
                                           ", more than there are experts (" + std::to_string(experts.count) + ")");
  }
  // Of training.
  reader.ignore({"output_router_logits", "router_aux_loss_coef"});
  return experts;
}

std::int64_t read_rotary_dim(ConfigReader& reader, std::int64_t head_dim, double fallback) {
  const double factor = reader.positive("partial_rotary_factor", fallback);
  const auto dim = factor <= 1.0 ? static_cast<std::int64_t>(static_cast<double>(head_dim) * factor) : 0;
  if (dim < 2 || dim % 2 != 0) {
    reader.fail("partial_rotary_factor", "is " + std::to_string(factor) + ", which of the " + std::to_string(head_dim) +
                                             " dimensions of a head takes no even number, 2 or more");
  }
  return dim == head_dim ? 0 : dim;
}

}  // namespace diffulex_edge
