#include "run_arguments.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>
#include <type_traits>

#include "core/parse_double.h"
#include "diffulex_edge/error.h"

namespace diffulex_edge::runner {
namespace {

template <typename Number>
Number number_of(const std::string& option, const std::string& text) {
  Number number{};
  const char* const all = text.data() + text.size();
  std::from_chars_result read{};
  if constexpr (std::is_floating_point_v<Number>) {
    read = parse_double(text.data(), all, number);
  } else {
    read = std::from_chars(text.data(), all, number);
  }
  if (read.ec != std::errc() || read.ptr != all) {
    throw Error(ErrorCode::kInvalidArgument, option, "'" + text + "' is not such a number");
  }
  return number;
}

struct DecodingOption {
  std::string_view name;
  std::string_view help;
  void (*set)(DiffusionGenerationConfig& config, const std::string& option, const std::string& text);
  bool has_value = true;
};

using Config = DiffusionGenerationConfig;
using Text = const std::string&;

constexpr std::array kDecoding = {
    DecodingOption{"--max-new-tokens", "N     tokens to write, at most",
                   [](Config& c, Text o, Text t) { c.max_new_tokens = number_of<std::int64_t>(o, t); }},
    DecodingOption{"--temperature", "X        0: the most probable token",
                   [](Config& c, Text o, Text t) { c.temperature = number_of<double>(o, t); }},
    DecodingOption{"--top-k", "N              0: all",
                   [](Config& c, Text o, Text t) { c.top_k = number_of<std::int64_t>(o, t); }},
    DecodingOption{"--top-p", "X", [](Config& c, Text o, Text t) { c.top_p = number_of<double>(o, t); }},
    DecodingOption{"--seed", "N               of the random numbers",
                   [](Config& c, Text o, Text t) { c.seed = number_of<std::uint64_t>(o, t); }},
    DecodingOption{"--threshold", "X          commit all tokens at least this probable",
                   [](Config& c, Text o, Text t) { c.threshold = number_of<double>(o, t); }},
    DecodingOption{"--editing-threshold", "X  replace placed tokens of the block by others more probable (LLaDA 2.1)",
                   [](Config& c, Text o, Text t) { c.editing_threshold = number_of<double>(o, t); }},
    DecodingOption{"--steps-per-block", "N",
                   [](Config& c, Text o, Text t) { c.steps_per_block = number_of<std::int64_t>(o, t); }},
    DecodingOption{"--cache", "KIND           auto, none, exact, prefix or dual",
                   [](Config& c, Text, Text t) { c.cache = parse_cache_kind(t); }},
    DecodingOption{"--ignore-eos", "          write --max-new-tokens, whatever they are",
                   [](Config& c, Text, Text) { c.ignore_eos = true; }, false},
};

const DecodingOption* decoding_option(std::string_view name) {
  const auto* const found = std::ranges::find(kDecoding, name, &DecodingOption::name);
  return found == kDecoding.end() ? nullptr : found;
}

[[noreturn]] void refuse(const std::string& option, const std::string& what) {
  throw Error(ErrorCode::kInvalidArgument, option, what, "--help lists what there is");
}

// The words one after the other.
class Words {
 public:
  explicit Words(const std::vector<std::string>& words) : words_(words) {}

  bool is_over() const { return next_ == words_.size(); }
  const std::string& take() { return words_[next_++]; }
  const std::string& value_of(const std::string& option) {
    if (is_over()) {
      refuse(option, "has no value");
    }
    return take();
  }

 private:
  const std::vector<std::string>& words_;
  std::size_t next_ = 0;
};

}  // namespace

DiffusionGenerationConfig RunArguments::over(DiffusionGenerationConfig config) const {
  for (const auto& [name, text] : decoding) {
    decoding_option(name)->set(config, name, text);
  }
  return config;
}

RunArguments read_arguments(const std::vector<std::string>& list) {
  RunArguments arguments;
  bool has_prompt = false;
  for (Words words(list); !words.is_over();) {
    const std::string& word = words.take();
    if (const DecodingOption* const option = decoding_option(word)) {
      arguments.decoding.emplace_back(word, option->has_value ? words.value_of(word) : std::string());
    } else if (word == "--prompt") {
      arguments.prompt = words.value_of(word);
      has_prompt = true;
    } else if (word == "--chat") {
      arguments.is_chat = true;
    } else if (word == "--stats") {
      arguments.wants_stats = true;
    } else if (word == "--json") {
      arguments.wants_json = true;
    } else if (word == "--trust-files") {
      arguments.trusts_files = true;
    } else if (word == "--help" || word == "-h") {
      arguments.wants_help = true;
    } else if (word.starts_with('-')) {
      refuse(word, "is no option");
    } else if (arguments.bundle.empty()) {
      arguments.bundle = word;
    } else {
      refuse(word, "is a second bundle");
    }
  }
  if (!arguments.wants_help && arguments.bundle.empty()) {
    refuse("BUNDLE", "is missing");
  }
  if (!arguments.wants_help && !has_prompt) {
    refuse("--prompt", "is missing");
  }
  return arguments;
}

std::string help_text() {
  std::string text =
      "diffulex-edge-run BUNDLE --prompt TEXT: writes text with a bundle of `diffulex-edge export --bundle`\n\n"
      "  --chat                  answer the prompt as a message, by the model's chat template\n"
      "  --stats                 tokens per second, on stderr\n"
      "  --json                  one JSON object in place of the text\n"
      "  --trust-files           don't hash the files first\n\n"
      "over the bundle's own settings:\n";
  for (const DecodingOption& option : kDecoding) {
    text += "  " + std::string(option.name) + " " + std::string(option.help) + "\n";
  }
  return text;
}

}  // namespace diffulex_edge::runner
