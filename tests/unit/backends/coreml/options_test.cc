#include "backends/coreml/options.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"

namespace diffulex_edge::coreml {
namespace {

using Named = std::map<std::string, std::string>;

Options parse(const Named& named) {
  BackendConfig config;
  config.backend_options = named;
  return parse_options(config);
}

void expect_refused(const Named& named, const std::string& sentence, ErrorCode code = ErrorCode::kInvalidArgument) {
  try {
    parse(named);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_EQ(std::string(error.what()), sentence);
    return;
  }
  ADD_FAILURE() << "taken, and not: " << sentence;
}

TEST(CoreMLOptions, HaveDefaults) {
  const Options options = parse({});
  EXPECT_EQ(options.target->name, "iOS18");
  EXPECT_EQ(options.compute_unit, "all");
  EXPECT_FALSE(options.palette);
  EXPECT_EQ(options.palette_group, 0);
  EXPECT_FALSE(options.chunk_size.has_value());
  EXPECT_FALSE(options.chunks_are_packages);
  EXPECT_FALSE(options.as_pte);
}

struct Target {
  const char* ios;
  const char* mac;
  int release;
  int specification;
  const char* opset;
};
const Target kTargets[] = {{"iOS16", "macOS13", 16, 7, "CoreML6"},
                           {"iOS17", "macOS14", 17, 8, "CoreML7"},
                           {"iOS18", "macOS15", 18, 9, "CoreML8"}};

TEST(CoreMLOptions, KnowTheTargetsByBothNames) {
  for (const Target& target : kTargets) {
    for (const char* name : {target.ios, target.mac}) {
      const DeploymentTarget& found = parse_deployment_target(name);
      EXPECT_EQ(found.name, target.ios);
      EXPECT_EQ(found.release, target.release);
      EXPECT_EQ(found.specification, target.specification);
      EXPECT_EQ(found.opset, target.opset);
      EXPECT_EQ(parse({{"minimum_deployment_target", name}}).target, &found);
    }
    EXPECT_EQ(deployment_target(target.release).name, target.ios);
  }
  for (const char* unknown : {"", "iOS15", "ios18", "iOS 18", "18", "macOS12", "iOS180"}) {
    expect_refused({{"minimum_deployment_target", unknown}},
                   "minimum deployment target: '" + std::string(unknown) +
                       "' is not one of iOS16, iOS17, iOS18, macOS13, macOS14, macOS15");
  }
}

TEST(CoreMLOptions, KnowTheComputeUnits) {
  for (const char* unit : {"all", "cpu_only", "cpu_and_gpu", "cpu_and_ne"}) {
    EXPECT_EQ(parse({{"compute_unit", unit}}).compute_unit, unit);
  }
  expect_refused({{"compute_unit", "npu"}}, "compute unit: 'npu' is not one of all, cpu_only, cpu_and_gpu, cpu_and_ne");
  expect_refused({{"compute_unit", ""}}, "compute unit: '' is not one of all, cpu_only, cpu_and_gpu, cpu_and_ne");
}

TEST(CoreMLOptions, TakePalettes) {
  EXPECT_TRUE(parse({{"palette", "true"}}).palette);
  EXPECT_FALSE(parse({{"palette", "false"}}).palette);
  expect_refused({{"palette", "yes"}}, "palette: 'yes' is neither false nor true");
  EXPECT_EQ(parse({{"palette", "true"}, {"palette_group", "16"}}).palette_group, 16);
  EXPECT_EQ(parse({{"palette_group", "0"}}).palette_group, 0);
  for (const char* count : {"", "-1", "1.5", "8x", " 8", "99999999999999999999"}) {
    expect_refused({{"palette", "true"}, {"palette_group", count}},
                   "palette group: '" + std::string(count) + "' is not a whole number of at least 0");
  }
}

TEST(CoreMLOptions, RefuseGroupsWithoutPalettes) {
  const std::string sentence = "palette group: is given without palettes (add --palette)";
  expect_refused({{"palette_group", "16"}}, sentence);
  expect_refused({{"palette_group", "16"}, {"palette", "false"}}, sentence);
}

TEST(CoreMLOptions, RefuseGroupsBeforeTheyExisted) {
  for (const char* target : {"iOS16", "iOS17", "macOS14"}) {
    expect_refused({{"palette", "true"}, {"palette_group", "8"}, {"minimum_deployment_target", target}},
                   "palette group: groups of rows with tables of their own need the deployment target iOS18 or macOS15 "
                   "(leave it out for one table a weight)",
                   ErrorCode::kUnsupported);
    EXPECT_TRUE(parse({{"palette", "true"}, {"minimum_deployment_target", target}}).palette);
  }
  EXPECT_EQ(
      parse({{"palette", "true"}, {"palette_group", "8"}, {"minimum_deployment_target", "macOS15"}}).palette_group, 8);
}

TEST(CoreMLOptions, TakeChunks) {
  EXPECT_EQ(parse({{"chunk_size", "1073741824"}}).chunk_size, 1073741824);
  EXPECT_FALSE(parse({{"chunk_size", "5"}, {"chunks", "pipeline"}}).chunks_are_packages);
  EXPECT_TRUE(parse({{"chunk_size", "5"}, {"chunks", "packages"}}).chunks_are_packages);
  EXPECT_FALSE(parse({{"chunks", "pipeline"}}).chunks_are_packages);
  EXPECT_EQ(parse({{"chunk_size", "1 GiB"}}).chunk_size, 1073741824);
  for (const char* size : {"0", "-4", "1 GiX", ""}) {
    expect_refused({{"chunk_size", size}}, "chunk size: '" + std::string(size) +
                                               "' is not a size (write bytes, or a number with kB, MB, GB, "
                                               "KiB, MiB or GiB, such as 120MB)");
  }
  expect_refused({{"chunk_size", "5"}, {"chunks", "files"}}, "chunks: 'files' is neither pipeline nor packages");
  expect_refused({{"chunks", "packages"}}, "chunks: are asked for without a chunk size (add --chunk-size)");
}

TEST(CoreMLOptions, TakeAContainer) {
  EXPECT_TRUE(parse({{"container", "pte"}}).as_pte);
  EXPECT_FALSE(parse({{"container", "mlpackage"}}).as_pte);
  expect_refused({{"container", "zip"}}, "container: 'zip' is neither mlpackage nor pte");
  expect_refused({{"container", "pte"}, {"chunk_size", "5"}},
                 "container pte: holds the model as one part (leave out --chunk-size)", ErrorCode::kUnsupported);
}

TEST(CoreMLOptions, AreRefusedWhereUnknown) {
  expect_refused({{"fast", "1"}}, "backend option 'fast': is not known to the Core ML backend");
  expect_refused({{"Palette", "true"}}, "backend option 'Palette': is not known to the Core ML backend");
}

}  // namespace
}  // namespace diffulex_edge::coreml
