// The payload of an ExecuTorch program's Core ML delegate, taken apart as the runtime does it: files one behind the
// other, then their directory as JSON with its bytes in reverse order, read from the payload's end.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>

#include "executorch_program_generated.h"

namespace diffulex_edge::testing {

class CoreMLPte {
 public:
  explicit CoreMLPte(std::string bytes) : bytes_(std::move(bytes)) {
    const auto* data = reinterpret_cast<const std::uint8_t*>(bytes_.data());
    const auto program_size = load(16);
    EXPECT_LE(program_size, bytes_.size());
    flatbuffers::Verifier verifier(data, program_size);
    EXPECT_TRUE(executorch::schema::VerifyProgramBuffer(verifier));
    program_ = executorch::schema::GetProgram(data);
    EXPECT_EQ(program_->segments()->size(), 1U);
    const auto* segment = program_->segments()->Get(0);
    begin_ = load(24) + segment->offset();
    EXPECT_EQ(begin_ % 128, 0U);
    EXPECT_EQ(begin_ + segment->size(), bytes_.size());
    read_directory();
  }

  const executorch::schema::Program& program() const { return *program_; }
  const executorch::schema::ExecutionPlan& plan() const { return *program_->execution_plan()->Get(0); }
  std::uint64_t payload_offset() const { return begin_; }
  // By path.
  const std::map<std::string, std::string>& files() const { return files_; }
  const nlohmann::json& directory() const { return directory_; }

 private:
  std::uint64_t load(std::size_t offset) const {
    std::uint64_t value = 0;
    std::memcpy(&value, bytes_.data() + offset, sizeof(value));
    return value;
  }

  void read_directory() {
    const std::string payload = bytes_.substr(begin_);
    // From the end to the bracket that closes the first one.
    int depth = 0;
    std::string text;
    for (auto position = payload.rbegin(); position != payload.rend() && (text.empty() || depth > 0); ++position) {
      text.push_back(*position);
      depth += *position == '{' ? 1 : 0;
      depth -= *position == '}' ? 1 : 0;
    }
    directory_ = nlohmann::json::parse(text);
    EXPECT_EQ(directory_.dump(), text);
    const nlohmann::json& nodes = directory_.at("nodes");
    add(nodes, nodes.size() - 1, "");
    EXPECT_EQ(seen_.size(), nodes.size()) << "a node that no folder names";
    // No byte between the files and the directory, or in two files.
    std::sort(regions_.begin(), regions_.end());
    std::uint64_t end = 0;
    for (const auto& [offset, size] : regions_) {
      EXPECT_EQ(offset, end);
      end = offset + size;
    }
    EXPECT_EQ(end + text.size(), payload.size());
  }

  void add(const nlohmann::json& nodes, std::size_t index, const std::string& path) {
    EXPECT_TRUE(seen_.insert(index).second) << index;
    const nlohmann::json& node = nodes.at(index);
    const std::uint64_t offset = node.at("dataRegion").at("offset");
    const std::uint64_t size = node.at("dataRegion").at("size");
    if (node.at("kind") == 0) {
      EXPECT_TRUE(node.at("children").empty());
      EXPECT_GT(size, 0U);  // the vendor's tools can't hold an empty file
      regions_.emplace_back(offset, size);
      files_[path] = bytes_.substr(begin_ + offset, size);
      return;
    }
    EXPECT_EQ(node.at("kind"), 1);
    EXPECT_EQ(size, 0U);
    for (const auto& [name, child] : node.at("children").items()) {
      const auto child_index = child.get<std::size_t>();
      EXPECT_LT(child_index, index);  // children come before their folder
      EXPECT_EQ(nodes.at(child_index).at("name"), name);
      add(nodes, child_index, path.empty() ? name : path + "/" + name);
    }
  }

  std::string bytes_;
  const executorch::schema::Program* program_ = nullptr;
  std::uint64_t begin_ = 0;
  nlohmann::json directory_;
  std::set<std::size_t> seen_;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> regions_;
  std::map<std::string, std::string> files_;
};

}  // namespace diffulex_edge::testing
