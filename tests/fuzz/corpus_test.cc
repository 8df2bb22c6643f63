// The fuzzers' corpora: what they start from, and inputs that once were findings.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "readers.h"
#include "support/temporary_folder.h"

namespace diffulex_edge::fuzz {
namespace {

class FuzzCorpus : public ::testing::TestWithParam<Reader> {};

TEST_P(FuzzCorpus, IsReadOrRefusedInOneSentence) {
  const std::filesystem::path folder = std::filesystem::path(DIFFULEX_EDGE_FUZZ_CORPUS) / GetParam().name;
  int inputs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    SCOPED_TRACE(entry.path().string());
    const std::string input = testing::read_file(entry.path());
    EXPECT_NO_THROW(read_or_refuse([&] { GetParam().read(input); }));
    ++inputs;
  }
  EXPECT_GT(inputs, 0);
}

INSTANTIATE_TEST_SUITE_P(Readers, FuzzCorpus, ::testing::ValuesIn(kReaders),
                         [](const auto& reader) { return std::string(reader.param.name); });

// Else a fuzzer would begin with nothing but refusals.
TEST_P(FuzzCorpus, HasSeedsThatAreRead) {
  const std::filesystem::path folder = std::filesystem::path(DIFFULEX_EDGE_FUZZ_CORPUS) / GetParam().name;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().filename().string().starts_with("seed-")) {
      SCOPED_TRACE(entry.path().string());
      EXPECT_NO_THROW(GetParam().read(testing::read_file(entry.path())));
    }
  }
}

}  // namespace
}  // namespace diffulex_edge::fuzz
