// Names for a program's values: no two alike.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>

namespace diffulex_edge {

class UniqueNames {
 public:
  // `wish`, with a number behind it where it is taken. It is taken from now on.
  std::string take(const std::string& wish) {
    std::string name = wish;
    if (names_.contains(name)) {
      std::uint32_t& number = next_number_[wish];
      do {
        name = wish + "_" + std::to_string(number++);
      } while (names_.contains(name));
    }
    names_.insert(name);
    return name;
  }
  // Takes a name that has to be this one.
  void reserve(const std::string& name) { names_.insert(name); }

 private:
  std::set<std::string> names_;
  std::map<std::string, std::uint32_t> next_number_;
};

}  // namespace diffulex_edge
