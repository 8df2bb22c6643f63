// A backend that a program adds is in all that is made from descriptions, and nothing there knows it by name.
#include "diffulex_edge/backend_description.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "backends/command_options.h"
#include "backends/option_values.h"
#include "diffulex_edge/backend.h"
#include "diffulex_edge/report.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace diffulex_edge {
namespace {

using Type = BackendOption::Type;

class ToyBackend final : public EdgeBackend {
 public:
  using EdgeBackend::EdgeBackend;
  std::string_view name() const override { return "toy"; }

 protected:
  ExportMetadata run(const Model& /*model*/, const CalibrationFindings& /*findings*/,
                     const std::filesystem::path* /*target*/, const RunControl& /*control*/) override {
    return {};
  }
};

std::unique_ptr<EdgeBackend> make_toy(BackendConfig config) { return std::make_unique<ToyBackend>(std::move(config)); }

BackendDescription toy() {
  return {.name = "toy",
          .title = "Toy",
          .output = "a .toy file",
          .suffix = ".toy",
          .lengths = LengthSupport::kUpTo,
          .activation_dtypes = "fp32",
          .options =
              {{.name = "colour",
                .type = Type::kChoice,
                .default_value = "red",
                .choices = {{"red"}, {"green"}, {"blue", "as the sky"}}},
               {.name = "wheel_count", .type = Type::kCount, .help = "Wheels", .default_value = "4", .least = 2},
               {.name = "box_size", .type = Type::kSize, .help = "Of its box"},
               {.name = "shiny", .type = Type::kFlag, .help = "Polished"},
               {.name = "label", .type = Type::kList, .help = "Stuck to it"},
               {.name = "owner", .help = "Whose it is"},
               {.name = "container", .type = Type::kChoice, .default_value = "bag", .choices = {{"bag"}, {"crate"}}}},
          .support_of = [](QuantizationDtype dtype, QuantizationMode) -> Support {
            return dtype == QuantizationDtype::INT8 ? Support{SupportLevel::kPartial, "toy integers"} : Support{};
          },
          .artefacts = {{.what = "a toy (.toy)",
                         .match =
                             [](const std::filesystem::path& path) {
                               return path.extension() == ".toy" ? ArtefactReader::Match::kLikely
                                                                 : ArtefactReader::Match::kNo;
                             },
                         .inspect = [](const std::filesystem::path& path, const InspectOptions&,
                                       const RunControl&) { return Inspection{.kind = "toy", .path = path}; }}}};
}

// The registry lives as long as the process.
BackendRegistry& with_toy() {
  BackendRegistry& registry = BackendRegistry::instance();
  const std::vector<std::string> names = registry.list();
  if (std::ranges::find(names, "toy") == names.end()) {
    registry.register_backend(toy(), make_toy);
  }
  return registry;
}

std::vector<BackendDescription> four_backends() {
  std::vector<BackendDescription> backends = with_toy().descriptions();
  std::erase_if(backends, [](const BackendDescription& backend) { return backend.name.starts_with("zz-"); });
  return backends;
}

const CommandOption& find(const std::vector<CommandOption>& options, const std::string& flag) {
  return *std::ranges::find(options, flag, &CommandOption::flag);
}

TEST(AddedBackend, IsMadeWithOptionsOfItsTypes) {
  EXPECT_EQ(with_toy().create("toy", {.quant_config = {}, .backend_options = {{"wheel_count", "6"}}})->name(), "toy");
  EXPECT_EQ(with_toy().describe("toy").suffix, ".toy");
  const auto refused = [](const std::map<std::string, std::string>& options, const std::string& sentence) {
    testing::expect_error(ErrorCode::kInvalidArgument, {sentence},
                          [&] { with_toy().create("toy", {.quant_config = {}, .backend_options = options}); });
  };
  refused({{"fast", "1"}}, "backend option 'fast': is not known to the Toy backend");
  refused({{"colour", "pink"}}, "colour: 'pink' is not one of red, green, blue");
  refused({{"container", "tin"}}, "container: 'tin' is neither bag nor crate");
  refused({{"wheel_count", "1"}}, "wheel count: '1' is not a whole number of at least 2");
  refused({{"box_size", "big"}}, "box size: 'big' is not a size");
  refused({{"shiny", "very"}}, "shiny: 'very' is neither false nor true");
}

TEST(AddedBackend, ReadsTypedValues) {
  const BackendDescription description = toy();
  const OptionValues values(description, {{"wheel_count", "6"}, {"box_size", "2kB"}, {"label", "a,b"}});
  EXPECT_EQ(values.text("colour"), "red");
  EXPECT_EQ(values.count("wheel_count"), 6);
  EXPECT_EQ(values.size("box_size"), 2000);
  EXPECT_EQ(values.list("label"), (std::vector<std::string>{"a", "b"}));
  EXPECT_FALSE(values.is_on("shiny"));
  const OptionValues none(description, {});
  EXPECT_EQ(none.count("wheel_count"), 4);
  EXPECT_FALSE(none.size("box_size").has_value());
  EXPECT_TRUE(none.list("label").empty());
  testing::expect_error(ErrorCode::kInternal, {"'fast'"}, [&] { none.text("fast"); });
}

TEST(AddedBackend, IsAColumnOfTheMatrix) {
  with_toy();
  const nlohmann::json matrix = nlohmann::json::parse(matrix_json());
  const std::vector<std::string> names = matrix["backends"];
  EXPECT_EQ(std::vector<std::string>(names.begin(), names.begin() + 3),
            (std::vector<std::string>{"xnnpack", "coreml", "qnn"}));
  EXPECT_NE(std::ranges::find(names, "toy"), names.end());
  for (const nlohmann::json& row : matrix["rows"]) {
    const bool is_int8 = row["dtype"] == "int8";
    EXPECT_EQ(row["toy"]["level"], is_int8 ? "partial" : "unsupported") << row;
    EXPECT_EQ(row["toy"]["note"], is_int8 ? "toy integers" : "") << row;
  }
  const std::string text = matrix_text();
  for (const char* word : {"XNNPACK", "Core ML", "QNN", "Toy", "toy integers", "qd8 x qc8w"}) {
    EXPECT_NE(text.find(word), std::string::npos) << word;
  }
}

TEST(AddedBackend, HasFlagsInTheCommand) {
  const std::vector<BackendDescription> backends = four_backends();
  const std::vector<CommandOption> options = command_options(backends);
  EXPECT_EQ(find(options, "--colour").help, "red (default); green; blue: as the sky");
  EXPECT_EQ(find(options, "--colour").group, "Toy");
  EXPECT_EQ(find(options, "--wheel-count").help, "Wheels (default 4)");
  EXPECT_TRUE(find(options, "--shiny").is_flag);
  EXPECT_TRUE(find(options, "--label").is_list);
  EXPECT_EQ(find(options, "--compute-unit").help, "all (default), cpu_only, cpu_and_gpu or cpu_and_ne: noted inside");
  const CommandOption& container = find(options, "--container");
  EXPECT_EQ(container.group, "Core ML, QNN, Toy");
  EXPECT_EQ(
      container.help,
      "coreml: mlpackage (default); pte: for ExecuTorch's Core ML delegate; qnn: onnx (default); pte: each context "
      "binary for ExecuTorch's QNN delegate as well; toy: bag (default) or crate");
  EXPECT_EQ(std::ranges::count(options, "--container", &CommandOption::flag), 1);
  EXPECT_EQ(backend_choices(backends), "xnnpack (default), coreml, qnn or toy");
  EXPECT_NE(describe_outputs(backends).find("; toy: a .toy file"), std::string::npos);
  EXPECT_NE(describe_lengths(backends).find("; toy: the longest one, shorter ones run too"), std::string::npos);
  EXPECT_NE(describe_activation_dtypes(backends).find("; toy: fp32"), std::string::npos);
}

TEST(AddedBackend, KeepsItsOptionsToItself) {
  const std::vector<BackendDescription> backends = four_backends();
  const std::map<std::string, std::string> given{{"container", "crate"}, {"shiny", "true"}};
  EXPECT_EQ(options_of(with_toy().describe("toy"), backends, given), given);
  testing::expect_error(ErrorCode::kInvalidArgument,
                        {"--shiny: belongs to the Toy backend (add --backend toy, or leave it out)"},
                        [&] { options_of(with_toy().describe("qnn"), backends, given); });
  testing::expect_error(
      ErrorCode::kInvalidArgument,
      {"--container: belongs to the Core ML, QNN and Toy backends (add --backend coreml, --backend qnn or --backend "
       "toy, or leave it out)"},
      [&] { options_of(with_toy().describe("xnnpack"), backends, given); });
}

TEST(AddedBackend, ReadsItsArtefacts) {
  with_toy();
  const testing::TemporaryFolder folder;
  std::ofstream(folder / "x.toy") << "not much";
  std::ofstream(folder / "x.other") << "not much";
  EXPECT_EQ(inspect(folder / "x.toy").kind, "toy");
  testing::expect_error(ErrorCode::kBadFile,
                        {"neither a safetensors file nor an ExecuTorch program (.pte) nor a toy (.toy)"},
                        [&] { inspect(folder / "x.other"); });
}

TEST(Descriptions, AreRefusedWhereTheyContradictThemselves) {
  const auto refused = [](auto change, const std::string& sentence) {
    BackendDescription description = toy();
    description.name = "zz-broken";
    change(description);
    testing::expect_error(ErrorCode::kInvalidArgument, {"backend 'zz-broken': ", sentence},
                          [&] { BackendRegistry::instance().register_backend(description, make_toy); });
  };
  refused([](auto& toy) { toy.options.push_back(toy.options.front()); }, "the option 'colour' twice");
  refused([](auto& toy) { toy.options.front().choices.clear(); }, "no choices for the option 'colour'");
  refused([](auto& toy) { toy.artefacts.front().match = {}; }, "a toy (.toy) without functions");
  refused([](auto& toy) { toy.options.push_back({.name = "palette"}); }, "backend 'coreml' has in another form");
  refused([](auto& toy) { toy.options.push_back({.name = "soc", .type = Type::kFlag}); }, "'qnn' has in another form");
  BackendDescription description = toy();
  description.options.front().default_value = "pink";
  testing::expect_error(ErrorCode::kInvalidArgument, {"colour: 'pink'"},
                        [&] { BackendRegistry::instance().register_backend(description, make_toy); });
}

TEST(Descriptions, BelongToTheirBackends) {
  for (const char* name : {"xnnpack", "coreml", "qnn"}) {
    EXPECT_EQ(BackendRegistry::instance().create(name, {})->name(), name);
    const BackendDescription description = BackendRegistry::instance().describe(name);
    EXPECT_EQ(description.name, name);
    for (const BackendOption& option : description.options) {
      EXPECT_FALSE(option.help.empty() && option.choices.empty()) << option.name;
    }
  }
}

}  // namespace
}  // namespace diffulex_edge
