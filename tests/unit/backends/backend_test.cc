// The facade that every backend shares, on a backend that does what a test tells it to.
#include "diffulex_edge/backend.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <stdexcept>
#include <thread>

#include "diffulex_edge/xnnpack_backend.h"
#include "support/expect_error.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

class ScriptedBackend final : public EdgeBackend {
 public:
  using Script = std::function<ExportMetadata(const std::filesystem::path* target, const RunControl& control)>;

  explicit ScriptedBackend(Script script, BackendConfig config = {})
      : EdgeBackend(std::move(config)), script_(std::move(script)) {}
  std::string_view name() const override { return "scripted"; }

 protected:
  ExportMetadata run(const Model& /*model*/, const CalibrationFindings& /*findings*/,
                     const std::filesystem::path* target, const RunControl& control) override {
    return script_(target, control);
  }

 private:
  Script script_;
};

class Facade : public ::testing::Test {
 protected:
  Facade() { testing::write_sdar(folder_ / "model"); }
  ExportResult run(const ScriptedBackend::Script& script, const RunControl& control = {}) {
    return ScriptedBackend(script).export_model(model(), folder_ / "out", control);
  }
  Model model() { return load_model(folder_ / "model"); }
  testing::TemporaryFolder folder_;
};

// It was a sentence only, which whoever threw it again had to take apart.
TEST_F(Facade, CarriesTheErrorItself) {
  const ExportResult result = run([](const auto*, const RunControl&) -> ExportMetadata {
    throw Error(ErrorCode::kUnsupported, "layer 3", "is too wide", "make it narrower");
  });
  EXPECT_FALSE(result.success);
  try {
    result.check();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_EQ(error.where(), "layer 3");
    EXPECT_EQ(error.problem(), "is too wide");
    EXPECT_EQ(error.advice(), "make it narrower");
    EXPECT_EQ(error.what(), result.error_message);
  }
  EXPECT_NO_THROW(run([](const auto*, const RunControl&) { return ExportMetadata(); }).check());
}

// It came back as an internal error of the library.
TEST_F(Facade, PassesOnWhatACallbackThrowsUnchanged) {
  struct Stopped {
    int at = 0;
  };
  const ScriptedBackend::Script script = [](const auto*, const RunControl& control) {
    control.on_progress({.stage = "weights"});
    return ExportMetadata();
  };
  try {
    run(script, {.on_progress = [](const Progress&) { throw Stopped{7}; }});
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Stopped& stopped) {
    EXPECT_EQ(stopped.at, 7);
  }
  EXPECT_THROW(run(script, {.on_progress = [](const Progress&) { throw std::out_of_range("mine"); }}),
               std::out_of_range);
}

TEST_F(Facade, FillsInWhatEveryExportHas) {
  const ExportResult result = run(
      [&](const std::filesystem::path* target, const RunControl& control) {
        EXPECT_EQ(*target, folder_ / "out");
        EXPECT_EQ(control.threads, 7);
        ExportMetadata metadata;
        metadata.method = "forward";
        return metadata;
      },
      {.threads = 7});
  EXPECT_TRUE(result.success);
  EXPECT_TRUE(result.error_message.empty());
  EXPECT_FALSE(result.error_code.has_value());
  EXPECT_EQ(result.metadata.backend, "scripted");
  EXPECT_EQ(result.metadata.method, "forward");
  EXPECT_GE(result.metadata.seconds, 0.0);
  EXPECT_GT(result.metadata.peak_rss_bytes, 1 << 20);
  EXPECT_FALSE(result.metadata.dry_run);
}

TEST_F(Facade, DryRunsHaveNoTarget) {
  ScriptedBackend backend([](const std::filesystem::path* target, const RunControl&) {
    EXPECT_EQ(target, nullptr);
    return ExportMetadata{};
  });
  const ExportResult result = backend.dry_run(model());
  EXPECT_TRUE(result.success);
  EXPECT_TRUE(result.metadata.dry_run);
}

TEST_F(Facade, TurnsEveryErrorIntoAResult) {
  for (const ErrorCode code : {ErrorCode::kInvalidArgument, ErrorCode::kBadFile, ErrorCode::kUnsupported,
                               ErrorCode::kIo, ErrorCode::kOutOfMemory, ErrorCode::kCancelled, ErrorCode::kInternal}) {
    const ScriptedBackend::Script script = [&](const std::filesystem::path*, const RunControl&) -> ExportMetadata {
      throw Error(code, "where", "what", "advice");
    };
    for (const ExportResult& result : {run(script), ScriptedBackend(script).dry_run(model())}) {
      EXPECT_FALSE(result.success);
      EXPECT_EQ(result.error_code, code);
      EXPECT_EQ(result.error_message, "where: what (advice)");
      EXPECT_EQ(result.metadata.backend, "scripted");
    }
  }
}

TEST_F(Facade, TurnsOtherExceptionsIntoResultsToo) {
  const ExportResult memory = run([](const auto*, const auto&) -> ExportMetadata { throw std::bad_alloc(); });
  EXPECT_EQ(memory.error_code, ErrorCode::kOutOfMemory);
  EXPECT_EQ(memory.error_message, "out of memory");
  const ExportResult other = run([](const auto*, const auto&) -> ExportMetadata { throw std::logic_error("oops"); });
  EXPECT_FALSE(other.success);
  EXPECT_EQ(other.error_code, ErrorCode::kInternal);
  EXPECT_NE(other.error_message.find("oops"), std::string::npos);
}

TEST_F(Facade, RefusesTheModelsOwnFilesBeforeTheBackendSeesThem) {
  ScriptedBackend backend([](const std::filesystem::path*, const RunControl&) -> ExportMetadata {
    ADD_FAILURE() << "the backend ran";
    return {};
  });
  std::filesystem::create_hard_link(folder_ / "model/model.safetensors", folder_ / "hard");
  std::filesystem::create_symlink("model/config.json", folder_ / "soft");
  for (const char* name : {"model/model.safetensors", "model/../model/config.json", "hard", "soft"}) {
    const ExportResult result = backend.export_model(model(), folder_ / name);
    EXPECT_EQ(result.error_code, ErrorCode::kInvalidArgument) << name;
    EXPECT_NE(result.error_message.find("the model itself"), std::string::npos) << result.error_message;
  }
}

TEST(ExportSizes, OfNothingAreNoDivisionByZero) {
  ExportMetadata metadata;
  EXPECT_EQ(metadata.memory_reduction_pct(), 0.0);
  EXPECT_EQ(metadata.compression_ratio(), 1.0);
  metadata.original_memory_mb = 8.0;
  metadata.quantized_memory_mb = 2.0;
  EXPECT_EQ(metadata.memory_reduction_pct(), 75.0);
  EXPECT_EQ(metadata.compression_ratio(), 4.0);
}

TEST(ActivationDtypes, RoundTrip) {
  for (const ActivationDtype dtype :
       {ActivationDtype::FP32, ActivationDtype::FP16, ActivationDtype::INT16, ActivationDtype::INT8}) {
    EXPECT_EQ(parse_activation_dtype(to_string(dtype)), dtype);
  }
  testing::expect_error(ErrorCode::kInvalidArgument, {"'fp8'", "fp32, fp16, int16, int8"},
                        [] { parse_activation_dtype("fp8"); });
}

TEST(InputLengths, AreOneSeveralOrARange) {
  using Kind = InputLengths::Kind;
  using Lengths = std::vector<std::int64_t>;
  const auto expect = [](const char* text, Kind kind, const Lengths& lengths, const char* written) {
    const InputLengths parsed = parse_input_lengths(text);
    EXPECT_EQ(parsed.kind, kind) << text;
    EXPECT_EQ(parsed.lengths, lengths) << text;
    EXPECT_EQ(parsed.longest(), lengths.back()) << text;
    EXPECT_EQ(to_string(parsed), written);
    const InputLengths again = parse_input_lengths(written);
    EXPECT_EQ(again.kind, kind) << text;
    EXPECT_EQ(again.lengths, lengths) << text;
  };
  expect("128", Kind::kFixed, {128}, "128");
  expect("1", Kind::kFixed, {1}, "1");
  expect("64,128,256", Kind::kEnumerated, {64, 128, 256}, "64,128,256");
  expect("256,64,128", Kind::kEnumerated, {64, 128, 256}, "64,128,256");  // in ascending order
  expect("8..512", Kind::kRange, {8, 512}, "8..512");
  expect("1..2", Kind::kRange, {1, 2}, "1..2");
}

TEST(InputLengths, AreRefusedWhereTheyAreNoNumbers) {
  for (const std::string text : {"",
                                 ",",
                                 "0",
                                 "-1",
                                 "+1",
                                 "1.5",
                                 " 8",
                                 "8 ",
                                 "x",
                                 "8x",
                                 "8,",
                                 ",8",
                                 "8,,9",
                                 "8,0",
                                 "..",
                                 "8..",
                                 "..8",
                                 "0..8",
                                 "8..x",
                                 "8...9",
                                 "8..9..10",
                                 "8,9..10",
                                 "1e3",
                                 "0x8",
                                 "99999999999999999999",
                                 "8..99999999999999999999"}) {
    testing::expect_error(
        ErrorCode::kInvalidArgument,
        {"sequence length: '" + text + "' is not a number of tokens, several with commas, or a range such as 8..512"},
        [&] { parse_input_lengths(text); });
  }
}

TEST(InputLengths, AreRefusedWhereTheySayNothing) {
  for (const std::string text : {"8..8", "9..8"}) {
    testing::expect_error(ErrorCode::kInvalidArgument,
                          {"sequence length: the range '" + text + "' has no lengths between its ends"},
                          [&] { parse_input_lengths(text); });
  }
  testing::expect_error(ErrorCode::kInvalidArgument, {"sequence length: '8,16,8' names a length twice"},
                        [] { parse_input_lengths("8,16,8"); });
}

// The registry lives as long as the process: a name that no test took before.
std::string new_name() {
  static int count = 0;
  return "zz-" + std::to_string(count++);
}

TEST(Registry, MakesBackendsThatWereAddedToIt) {
  BackendRegistry& registry = BackendRegistry::instance();
  const std::string name = new_name();
  const BackendRegistry::Factory factory = [](BackendConfig config) {
    return std::make_unique<ScriptedBackend>(
        [](const std::filesystem::path*, const RunControl&) { return ExportMetadata{}; }, std::move(config));
  };
  registry.register_backend(name, factory);
  BackendConfig config;
  config.backend_options["key"] = "value";
  const auto backend = registry.create(name, config);
  EXPECT_EQ(backend->name(), "scripted");
  EXPECT_EQ(backend->config().backend_options.at("key"), "value");
  const auto names = registry.list();
  EXPECT_TRUE(std::ranges::is_sorted(names));
  EXPECT_NE(std::ranges::find(names, name), names.end());
  testing::expect_error(ErrorCode::kInvalidArgument, {"'" + name + "'", "registered already"},
                        [&] { registry.register_backend(name, factory); });
  testing::expect_error(ErrorCode::kUnsupported, {"'XNNPACK'", "only coreml, qnn, ", "xnnpack, zz-"},
                        [&] { registry.create("XNNPACK", {}); });
}

TEST(Registry, TakesNamesFromManyThreads) {
  BackendRegistry& registry = BackendRegistry::instance();
  const std::string names[] = {new_name(), new_name(), new_name()};
  std::atomic<int> refused{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (const std::string& name : names) {
          try {
            registry.register_backend(name, [](BackendConfig) { return nullptr; });
          } catch (const Error&) {
            ++refused;
          }
          registry.list();
        }
      });
    }
  }
  EXPECT_EQ(refused, 3 * 3);
}

TEST(XnnpackOptions, AreRefusedWhereUnknown) {
  const testing::TemporaryFolder folder;
  testing::write_sdar(folder / "model");
  BackendConfig config;
  config.backend_options["fast"] = "1";
  const ExportResult result = XNNPACKBackend(config).export_model(load_model(folder / "model"), folder / "x.pte");
  EXPECT_EQ(result.error_code, ErrorCode::kInvalidArgument);
  EXPECT_NE(result.error_message.find("'fast'"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder / "x.pte"));
}

}  // namespace
}  // namespace diffulex_edge
