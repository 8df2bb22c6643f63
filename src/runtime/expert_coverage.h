// Which routed experts calibration reached, and what is said of the others.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace diffulex_edge {

// Tokens that an expert's layer has to see in calibration to be judged by them: a sixteenth of its inputs, and 8.
std::int64_t least_tokens(std::int64_t columns);

class ExpertCoverage {
 public:
  // An expert's layer saw `tokens` tokens. Nothing for layers that are no expert's.
  void add(std::string_view layer, std::int64_t tokens, std::int64_t columns);

  bool is_reached(std::string_view layer) const { return !missed_layers_.contains(layer); }
  // One sentence for each layer that has experts which calibration hardly reached: which ones, and `consequence`.
  std::vector<std::string> warnings(std::string_view consequence) const;

 private:
  struct Group {
    std::set<std::int64_t> all;
    std::map<std::int64_t, std::int64_t> missed;  // an expert's number, and the tokens that it saw
  };

  std::map<std::string, Group> groups_;
  std::set<std::string, std::less<>> missed_layers_;
};

}  // namespace diffulex_edge
