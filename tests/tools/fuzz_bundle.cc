// fuzz_bundle BUNDLE WORKPLACE CASES SEED: damages copies of a bundle's files, opens each as a runner does and writes
// text with it. Prints how often it ended how. Ends with exit code 1 where an error was an internal one, and by a
// signal where a case takes longer than a minute: all else is a text or one sentence.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bundle/bundle.h"
#include "diffulex_edge/error.h"
#include "text_writer.h"

namespace {

namespace fs = std::filesystem;
using namespace diffulex_edge;

// In the artefact's place: logits that depend on nothing but places.
class FakeModel : public runner::StepModel {
 public:
  explicit FakeModel(BundledModel facts) : facts_(std::move(facts)) {}
  const BundledModel& facts() const override { return facts_; }
  void step(const ForwardStep& step, std::span<float> logits) override {
    for (std::size_t i = 0; i < logits.size(); ++i) {
      logits[i] = static_cast<float>((i * 2654435761U + static_cast<std::size_t>(step.start)) % 1009) / 100.0F;
    }
  }

 private:
  BundledModel facts_;
};

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
}

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  std::size_t below(std::size_t count) { return random_() % std::max<std::size_t>(count, 1); }

  std::string mutate(std::string text) {
    for (std::size_t times = 1 + below(3); times > 0; --times) {
      change(text);
    }
    return text;
  }

 private:
  void change(std::string& text) {
    static const std::array kNumbers = {"0",
                                        "-1",
                                        "1e308",
                                        "4294967296",
                                        "9223372036854775807",
                                        "0.5",
                                        "18446744073709551615",
                                        "-1e-320",
                                        "16777216",
                                        "99999999999999999999999"};
    static const std::array kWords = {
        "null",        "[]",          "{}", "\"\"", "true",    "\"exact\"",        "[[[[",
        "\"\\u0000\"", "\"\\ud800\"", "{%", "%}",   "{{ x }}", "{% for a in b %}", "\"(?:a+)+b\"",
        "\xff",        "\"..\""};
    const std::size_t at = below(text.size());
    const std::size_t length = std::min(below(40), text.size() - at);
    switch (below(8)) {
      case 0:
        if (!text.empty()) {
          text[at] = static_cast<char>(static_cast<unsigned char>(text[at]) ^ (1U << below(8)));
        }
        break;
      case 1:
        text.resize(at);
        break;
      case 2:
        text.erase(at, length);
        break;
      case 3:
        text.insert(below(text.size()), text.substr(at, length));
        break;
      case 4:
      case 5:
        replace_number(text, at, kNumbers[below(kNumbers.size())]);
        break;
      case 6:
        replace_value(text, at, kWords[below(kWords.size())]);
        break;
      default:
        text.insert(at, kWords[below(kWords.size())]);
    }
  }

  static void replace_number(std::string& text, std::size_t from, const char* number) {
    const std::size_t begin = text.find_first_of("0123456789", from);
    if (begin != std::string::npos) {
      const std::size_t end = std::min(text.find_first_not_of("0123456789.", begin), text.size());
      text.replace(begin, end - begin, number);
    }
  }

  // What stands behind a colon.
  static void replace_value(std::string& text, std::size_t from, const char* word) {
    const std::size_t colon = text.find(':', from);
    if (colon != std::string::npos) {
      const std::size_t end = std::min(text.find_first_of(",}]\n", colon), text.size());
      text.replace(colon + 1, end - colon - 1, word);
    }
  }

  std::mt19937_64 random_;
};

std::string run(const fs::path& folder, const BundledModel& facts, bool trusts_files, bool is_chat) {
  try {
    runner::TextWriter writer(folder, trusts_files, [&](const Bundle&) { return std::make_unique<FakeModel>(facts); });
    runner::TextRequest request{
        .prompt = "In the <|mask|> beginning \xc3\xa4", .is_chat = is_chat, .config = writer.config()};
    request.config.max_new_tokens = std::min<std::int64_t>(request.config.max_new_tokens, 12);
    static_cast<void>(writer.write(request, [](std::string_view) { return true; }));
    return "text";
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kInternal) {
      throw;
    }
    return std::string(to_string(error.code()));
  }
}

void fuzz(const fs::path& bundle, const fs::path& place, std::uint64_t cases, std::uint64_t seed) {
  constexpr unsigned int kSeconds = 60;
  fs::copy(bundle, place, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  const BundledModel facts = read_bundle(bundle).model;
  std::vector<std::pair<fs::path, std::string>> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(bundle)) {
    if (entry.is_regular_file() && entry.path().filename() != kBundleReadme) {
      files.emplace_back(place / entry.path().filename(), read(entry.path()));
    }
  }
  std::ranges::sort(files);
  Mutator mutator(seed);
  std::map<std::string, std::uint64_t> ends;
  for (std::uint64_t i = 0; i < cases; ++i) {
    const auto& [path, content] = files[mutator.below(files.size())];
    const bool is_artefact = path.filename() == "model.pte";  // which nobody executes: its hash is looked at
    write(path, mutator.mutate(content));
    alarm(kSeconds);
    ++ends[run(place, facts, !is_artefact && mutator.below(4) != 0, mutator.below(2) == 0)];
    write(path, content);
  }
  alarm(0);
  for (const auto& [end, count] : ends) {
    std::cout << end << ' ' << count << '\n';
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 5) {
    std::cerr << "usage: fuzz_bundle BUNDLE WORKPLACE CASES SEED\n";
    return 2;
  }
  fuzz(argv[1], argv[2], std::stoull(argv[3]), std::stoull(argv[4]));
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
