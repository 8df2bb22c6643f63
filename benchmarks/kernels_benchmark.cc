// Speed of each kernel beside its scalar twin and beside memcpy: bytes read and written for each second, one core.
// The argument is the number of floats: 32 Ki stay in the L2 cache, 16 Mi come from memory.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "quant/kernels/kernels.h"

namespace {

namespace kernels = diffulex_edge::kernels;

constexpr float kScale = 0.002F;

std::vector<float> random_weights(std::size_t n) {
  std::mt19937 random(1);
  std::normal_distribution<float> weight(0.0F, 0.05F);
  std::vector<float> block(65536);
  for (float& value : block) value = weight(random);
  std::vector<float> weights(n);
  for (std::size_t i = 0; i < n; ++i) weights[i] = block[i % block.size()];
  return weights;
}

// Calls `kernel(source, target, n)` where a float is read or written as `Source` and `Target`.
template <class Source, class Target, class Kernel>
void measure(benchmark::State& state, double bytes_per_element, const Kernel& kernel) {
  const auto n = static_cast<std::size_t>(state.range(0));
  std::vector<Source> source(n);
  const std::vector<float> weights = random_weights(n);
  std::memcpy(source.data(), weights.data(), n * sizeof(Source));
  std::vector<Target> target(n);
  for (auto _ : state) {
    kernel(source.data(), target.data(), n);
    benchmark::ClobberMemory();
  }
  const double bytes = static_cast<double>(n) * bytes_per_element * static_cast<double>(state.iterations());
  state.SetBytesProcessed(static_cast<std::int64_t>(bytes));
}

void copy(benchmark::State& state) {
  measure<float, float>(state, 8.0, [](const float* source, float* target, std::size_t n) {
    std::memcpy(target, source, n * sizeof(float));
  });
}

template <auto kKernel>
void widen(benchmark::State& state) {
  measure<std::uint16_t, float>(state, 6.0, kKernel);
}

template <auto kKernel>
void narrow(benchmark::State& state) {
  measure<float, std::uint16_t>(state, 6.0, kKernel);
}

template <auto kKernel>
void reduce(benchmark::State& state) {
  measure<float, float>(
      state, 4.0, [](const float* source, float*, std::size_t n) { benchmark::DoNotOptimize(kKernel(source, n)); });
}

template <auto kKernel>
void round_to_i8(benchmark::State& state) {
  measure<float, std::int8_t>(
      state, 5.0, [](const float* source, std::int8_t* target, std::size_t n) { kKernel(source, target, n, kScale); });
}

template <auto kKernel>
void round_to_i4(benchmark::State& state) {
  measure<float, std::uint8_t>(state, 4.5, [](const float* source, std::uint8_t* target, std::size_t n) {
    kKernel(source, target, n, kScale * 16);
  });
}

template <auto kKernel>
void round_to_i4_groups(benchmark::State& state) {
  const auto group_size = static_cast<std::size_t>(state.range(1));
  std::vector<std::uint16_t> scales(static_cast<std::size_t>(state.range(0)) / group_size);
  const double bytes = 4.5 + 2.0 / static_cast<double>(group_size);
  measure<float, std::uint8_t>(state, bytes, [&](const float* source, std::uint8_t* target, std::size_t n) {
    kKernel(source, target, scales.data(), n, group_size);
  });
}

template <auto kKernel>
void repack(benchmark::State& state) {
  measure<std::uint8_t, std::uint8_t>(state, 2.0, kKernel);
}

constexpr std::int64_t kCached = 32 << 10;
constexpr std::int64_t kMemory = 16 << 20;

void sizes(benchmark::internal::Benchmark* benchmark) { benchmark->Arg(kCached)->Arg(kMemory); }

void group_sizes(benchmark::internal::Benchmark* benchmark) {
  for (const std::int64_t n : {kCached, kMemory}) {
    for (const std::int64_t group_size : {32, 128}) benchmark->Args({n, group_size});
  }
}

#define DIFFULEX_EDGE_KERNEL(shape, kernel, arguments)                         \
  BENCHMARK_TEMPLATE(shape, kernels::kernel)->Name(#kernel)->Apply(arguments); \
  BENCHMARK_TEMPLATE(shape, kernels::scalar::kernel)->Name("scalar::" #kernel)->Apply(arguments)

BENCHMARK(copy)->Name("memcpy")->Apply(sizes);
DIFFULEX_EDGE_KERNEL(widen, f16_to_f32, sizes);
DIFFULEX_EDGE_KERNEL(widen, bf16_to_f32, sizes);
DIFFULEX_EDGE_KERNEL(narrow, f32_to_f16, sizes);
DIFFULEX_EDGE_KERNEL(narrow, f32_to_f16_saturate, sizes);
DIFFULEX_EDGE_KERNEL(narrow, f32_to_bf16, sizes);
DIFFULEX_EDGE_KERNEL(reduce, f32_abs_max, sizes);
DIFFULEX_EDGE_KERNEL(reduce, f32_min_max, sizes);
DIFFULEX_EDGE_KERNEL(round_to_i8, f32_to_i8_rtn, sizes);
DIFFULEX_EDGE_KERNEL(round_to_i4_groups, f32_to_i4_group_rtn, group_sizes);
DIFFULEX_EDGE_KERNEL(round_to_i4, f32_to_i4_rtn, sizes);
DIFFULEX_EDGE_KERNEL(repack, swap_nibbles, sizes);

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("instruction_set", kernels::instruction_set());
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
