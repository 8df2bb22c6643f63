// One export from a request to an artefact: what is checked when, what reaches the backend, and what is left behind.
#include "diffulex_edge/export_session.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <utility>

#include "support/expect_error.h"
#include "support/file_tree.h"
#include "support/static_ranges.h"
#include "support/tiny_model.h"

namespace diffulex_edge {
namespace {

// What a backend saw of the sessions of one test.
struct Seen {
  int created = 0;
  int runs = 0;  // writes
  int dry_runs = 0;
  std::filesystem::path model;
  CalibrationFindings findings;
  QuantizationConfig request;
  std::function<void(const RunControl&)> during = {};
};

class WatchedBackend final : public EdgeBackend {
 public:
  WatchedBackend(Seen& seen, BackendConfig config) : EdgeBackend(std::move(config)), seen_(seen) { ++seen.created; }
  std::string_view name() const override { return "watched"; }
  void check_target(const std::filesystem::path& target) const override {
    if (target.extension() == ".bad") {
      throw Error(ErrorCode::kInvalidArgument, target.string(), "has a bad name");
    }
  }

 protected:
  ExportMetadata run(const Model& model, const CalibrationFindings& findings, const std::filesystem::path* target,
                     const RunControl& control) override {
    ExportMetadata metadata{.quantized_memory_mb = 2.5};
    for (const LayerPlan& layer : quantize_model(model, quantization(), findings, arithmetic()).plan.layers) {
      metadata.layers.push_back({.plan = layer, .kernel = {}});
    }
    if (target == nullptr) {
      ++seen_.dry_runs;
      return metadata;
    }
    ++seen_.runs;
    seen_.model = model.path;
    seen_.findings = findings;
    seen_.request = config().quant_config;
    if (seen_.during) {
      seen_.during(control);
    }
    return metadata;
  }

 private:
  Seen& seen_;
};

class ExportSessions : public ::testing::Test {
 protected:
  ExportSessions() : backend_("watched-" + std::to_string(count_++)) {
    testing::write_sdar(folder_ / "model");
    std::vector<std::int64_t> ids;
    for (int i = 0; i < 24; ++i) {
      ids.push_back((i * 7 + 5) % 50);
    }
    testing::write_file(
        folder_ / "data.safetensors",
        testing::safetensors_file(
            {{.name = "input_ids_0", .dtype = DType::kI64, .shape = {2, 12}, .bytes = testing::bytes_of(ids)}}));
    BackendRegistry::instance().register_backend(
        backend_, [this](BackendConfig config) { return std::make_unique<WatchedBackend>(seen_, std::move(config)); });
  }

  ExportRequest request(const QuantizationConfig& config, bool with_data = false, const char* name = "out") const {
    ExportRequest request{.backend = backend_, .config = {.quant_config = config}, .output = folder_ / name};
    if (with_data) {
      request.calibration.data = folder_ / "data.safetensors";
    }
    return request;
  }
  ExportSession session(const ExportRequest& request) const {
    return {load_model(folder_ / "model", kOptions), kOptions, request};
  }
  std::vector<std::string> entries() const { return testing::entries_of(folder_.path()); }

  static inline const ModelOptions kOptions = {
      .seq_len = 16, .block_length = {}, .mask_token_id = 49, .ignored_config_keys = {}};
  static inline int count_ = 0;  // the registry lives as long as the process
  testing::TemporaryFolder folder_;
  std::string backend_;
  Seen seen_;
};

constexpr QuantizationDtype kInt8 = QuantizationDtype::INT8;
constexpr QuantizationMode kStatic = QuantizationMode::STATIC;

TEST_F(ExportSessions, CreateTheBackendOnce) {
  ExportSession one = session(request({.dtype = kInt8, .mode = kStatic}, true));
  EXPECT_EQ(seen_.created, 1);
  one.run().check();
  EXPECT_EQ(seen_.created, 1);
  EXPECT_EQ(seen_.runs, 1);
}

TEST_F(ExportSessions, HandOverWhatCalibrationFoundBesideTheRequest) {
  ExportSession one = session(request({.dtype = kInt8, .mode = kStatic}, true));
  EXPECT_FALSE(one.calibration());
  const ExportResult result = one.run();
  result.check();
  ASSERT_TRUE(one.calibration());
  EXPECT_EQ(one.calibration()->sequences, 2);
  EXPECT_EQ(seen_.findings.layers, one.calibration()->findings.layers);
  EXPECT_TRUE(seen_.findings.layers.contains("layers.1.down_proj"));
  EXPECT_EQ(seen_.request.mode, kStatic);
  for (const StoredLayer& layer : result.metadata.layers) {
    if (layer.plan.activations) {
      EXPECT_EQ(*layer.plan.activations, seen_.findings.layers.at(layer.plan.layer));
    }
  }
}

TEST_F(ExportSessions, TakeIntegerActivationsForModeStatic) {
  ExportRequest wanted = request({.dtype = kInt8}, true);
  wanted.config.activation_dtype = ActivationDtype::INT8;
  ExportSession one = session(wanted);
  one.run().check();
  EXPECT_FALSE(seen_.findings.layers.empty());
  EXPECT_EQ(seen_.request.mode, QuantizationMode::WEIGHT_ONLY);  // as it was asked for
  EXPECT_EQ(one.config().quant_config.mode, kStatic);            // what it means
}

TEST_F(ExportSessions, RoundInAPlaceThatGoesWithThem) {
  {
    ExportSession one = session(request({.dtype = kInt8, .method = RoundingMethod::GPTQ}, true));
    EXPECT_EQ(entries(), (std::vector<std::string>{"data.safetensors", "model"}));
    one.run().check();
    EXPECT_NE(seen_.model, folder_ / "model");
    EXPECT_TRUE(std::filesystem::exists(seen_.model / "model.safetensors"));
    EXPECT_EQ(one.model().path, folder_ / "model");  // what reports describe
    EXPECT_EQ(seen_.request.method, RoundingMethod::GPTQ);
    EXPECT_FALSE(one.calibration()->rounding.empty());
  }
  EXPECT_FALSE(std::filesystem::exists(seen_.model));
  EXPECT_EQ(entries(), (std::vector<std::string>{"data.safetensors", "model"}));
}

TEST_F(ExportSessions, NeedNoDataForRangesThatAreKnown) {
  ExportRequest wanted = request({.dtype = kInt8, .mode = kStatic});
  wanted.known = testing::wide_findings();
  ExportSession one = session(wanted);
  one.run().check();
  EXPECT_EQ(seen_.findings.layers, testing::wide_activations());
  EXPECT_FALSE(one.calibration());
}

TEST_F(ExportSessions, FindOnlyTheRangesThatNobodyKnows) {
  ExportRequest wanted = request({.dtype = kInt8, .mode = kStatic}, true);
  const LayerActivations known = testing::wide_activations().at("layers.0.q_proj");
  wanted.known.layers["layers.0.q_proj"] = known;
  ExportSession one = session(wanted);
  one.run().check();
  EXPECT_EQ(seen_.findings.layers.at("layers.0.q_proj"), known);
  EXPECT_NE(seen_.findings.layers.at("layers.0.k_proj"), known);
  wanted.calibration.data.clear();
  testing::expect_error(ErrorCode::kInvalidArgument, {"layers.0.k_proj", "needs the range of its activations"},
                        [&] { session(wanted); });
}

TEST_F(ExportSessions, RefuseBeforeAnyWork) {
  const auto refuse = [&](const ExportRequest& wanted, ErrorCode code, const std::string& part) {
    testing::expect_error(code, {part}, [&] { session(wanted); });
    EXPECT_EQ(seen_.runs, 0);
  };
  ExportRequest unknown = request({});
  unknown.backend = "nope";
  refuse(unknown, ErrorCode::kUnsupported, "'nope'");
  refuse(request({}, false, "out.bad"), ErrorCode::kInvalidArgument, "has a bad name");
  refuse(request({}, false, "model/config.json"), ErrorCode::kInvalidArgument, "the model itself");
  refuse(request({.dtype = kInt8, .mode = kStatic}), ErrorCode::kInvalidArgument, "needs calibration data");
  refuse(request({.dtype = kInt8, .method = RoundingMethod::GPTQ}), ErrorCode::kInvalidArgument,
         "method gptq: needs calibration data");
  refuse(request({.dtype = kInt8}, true), ErrorCode::kInvalidArgument, "nothing here needs it");
  refuse(request({.dtype = QuantizationDtype::INT4, .mode = kStatic}, true), ErrorCode::kUnsupported, "no kernel");
  ExportRequest percentile = request({.dtype = kInt8, .mode = kStatic}, true);
  percentile.calibration.percentile = 5.0;
  refuse(percentile, ErrorCode::kInvalidArgument, "percentile");
  ExportRequest large = request({.dtype = kInt8, .mode = kStatic}, true);
  large.max_memory_mb = 2.4;
  refuse(large, ErrorCode::kUnsupported, "the weights take 2.50 MB, more than 2.4 (quantize further");
  large.max_memory_mb = 2.5;
  EXPECT_NO_THROW(session(large));
}

TEST_F(ExportSessions, LowerWithMadeUpFindingsBeforeTheyCalibrate) {
  const ExportRequest wanted = request({.dtype = kInt8, .mode = kStatic}, true);
  ExportSession one = session(wanted);
  EXPECT_EQ(seen_.dry_runs, 1);
  EXPECT_EQ(seen_.runs, 0);
  const int created = seen_.created;
  session(request({.dtype = kInt8}));  // where nothing is calibrated, the export itself refuses at once
  EXPECT_EQ(seen_.dry_runs, 1);
  EXPECT_EQ(seen_.created, created + 1);
}

TEST_F(ExportSessions, PredictRoundingWithoutData) {
  ExportRequest wanted = request({.dtype = kInt8, .method = RoundingMethod::GPTQ});
  wanted.dry_run = true;
  ExportSession one = session(wanted);
  const ExportResult result = one.run();
  result.check();
  EXPECT_TRUE(result.metadata.dry_run);
  EXPECT_EQ(seen_.runs, 0);
  wanted.config.quant_config = {.dtype = kInt8, .mode = kStatic};  // its ranges are in the metadata
  testing::expect_error(ErrorCode::kInvalidArgument, {"mode static: needs calibration data"}, [&] { session(wanted); });
}

TEST_F(ExportSessions, ReturnFailuresWithTheirParts) {
  seen_.during = [](const RunControl&) {
    throw Error(ErrorCode::kUnsupported, "layer 3", "is too wide", "make it narrower");
  };
  const ExportResult failed = session(request({.dtype = kInt8})).run();
  ASSERT_TRUE(failed.error);
  EXPECT_EQ(failed.error->where(), "layer 3");
  EXPECT_EQ(failed.error->problem(), "is too wide");
  EXPECT_EQ(failed.error->advice(), "make it narrower");
  ExportRequest broken = request({.dtype = kInt8, .mode = kStatic}, true);
  broken.calibration.data = folder_ / "missing.safetensors";
  const ExportResult missing = session(broken).run();
  EXPECT_FALSE(missing.success);
  EXPECT_NE(missing.error_message.find("missing.safetensors"), std::string::npos) << missing.error_message;
}

TEST_F(ExportSessions, PassOnWhatACallbackThrows) {
  struct Stopped {};
  const RunControl control{.on_progress = [](const Progress&) { throw Stopped{}; }};
  ExportSession calibrating = session(request({.dtype = kInt8, .mode = kStatic}, true));
  EXPECT_THROW(calibrating.run(control), Stopped);
  seen_.during = [](const RunControl& watched) { watched.on_progress({.stage = "weights"}); };
  ExportSession writing = session(request({.dtype = kInt8}));
  EXPECT_THROW(writing.run(control), Stopped);
}

}  // namespace
}  // namespace diffulex_edge
