// Speed of the packed kernels beside our float32 products, one core, layers of Qwen3-0.6B. Weights come from memory, as
// they do when a model is larger than the caches: each multiplication takes the next of many copies. Both are timed in
// turns, by this thread's processor time, so that other work on the machine weighs on both and little.
//
// GOP/s counts a multiplication and an addition for each weight and token, GB/s the packed weights' bytes; x_float32 is
// the time of float32 over that of the packed kernel.
//
// memory/read and peak/... are what the machine can do: all its memory lanes read by a plain loop, and the instructions
// that the integer kernels are made of, with nothing around them.
#include <benchmark/benchmark.h>
#include <hwy/aligned_allocator.h>
#include <time.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "core/linear_algebra.h"
#include "runtime/kernels/packed_kernels.h"

namespace {

using namespace diffulex_edge;
using kernels::PackedElement;

constexpr std::size_t kMemory = std::size_t{96} << 20U;  // bytes of all copies, beyond the last cache

struct Format {
  const char* name;
  PackedElement element;
  std::size_t group_size;  // 0: one scale for each row
  bool float_activations;
};

// What the bytes stand for does not change the time.
class Copies {
 public:
  Copies(std::size_t rows, std::size_t columns, const Format& format) {
    panels_ = {.element = format.element,
               .panels = rows / kernels::kPanelRows,
               .columns = columns,
               .group_columns = format.group_size == 0 ? columns : format.group_size};
    copy_bytes_ = panels_.panels * panels_.panel_bytes();
    count_ = std::max<std::size_t>(1, kMemory / copy_bytes_);
    values_ = hwy::AllocateAligned<std::uint8_t>(count_ * copy_bytes_);
    // 0x3C3C is a normal binary16 number too.
    std::fill_n(values_.get(), count_ * copy_bytes_, std::uint8_t{0x3C});
    const bool halves = format.element == PackedElement::kF16;
    scales_.assign(rows, 0.01F);
    group_scales_.assign(count_ * rows * panels_.groups(), 0x3C00);
    sums_.assign(rows, 100);
    if (format.group_size != 0) {
      panels_.row_totals = scales_.data();
    } else if (!halves) {
      panels_.row_scales = scales_.data();
      panels_.row_sums = sums_.data();
    }
  }

  std::size_t bytes() const {
    return copy_bytes_ + (panels_.row_totals == nullptr ? 0 : group_scales_.size() / count_ * 2);
  }
  kernels::PackedPanels next() {
    kernels::PackedPanels panels = panels_;
    at_ = (at_ + 1) % count_;
    panels.values = values_.get() + at_ * copy_bytes_;
    if (panels_.row_totals != nullptr) {
      panels.group_scales = group_scales_.data() + at_ * (group_scales_.size() / count_);
    }
    return panels;
  }

 private:
  kernels::PackedPanels panels_;
  std::size_t copy_bytes_ = 0;
  std::size_t count_ = 1;
  std::size_t at_ = 0;
  hwy::AlignedFreeUniquePtr<std::uint8_t[]> values_;
  std::vector<float> scales_;
  std::vector<std::uint16_t> group_scales_;
  std::vector<std::int32_t> sums_;
};

// The runtime's tiles: 4 panels times all tokens.
template <typename Kernel, typename Tokens>
void multiply(Kernel kernel, const kernels::PackedPanels& all, const Tokens& x, float* out) {
  constexpr std::size_t kPanels = 4;
  for (std::size_t panel = 0; panel < all.panels; panel += kPanels) {
    kernels::PackedPanels part = all;
    part.panels = std::min(kPanels, all.panels - panel);
    part.values += panel * all.panel_bytes();
    const std::size_t row = panel * kernels::kPanelRows;
    part.group_scales = all.group_scales == nullptr ? nullptr : all.group_scales + row * all.groups();
    part.row_scales = all.row_scales == nullptr ? nullptr : all.row_scales + row;
    part.row_sums = all.row_sums == nullptr ? nullptr : all.row_sums + row;
    part.row_totals = all.row_totals == nullptr ? nullptr : all.row_totals + row;
    kernel(part, x, out + row, all.panels * kernels::kPanelRows);
  }
}

double processor_seconds() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

void measure(benchmark::State& state, const kernels::PackedKernels& set, const Format& format) {
  const auto tokens = static_cast<std::size_t>(state.range(0));
  const auto columns = static_cast<std::size_t>(state.range(1));
  const auto rows = static_cast<std::size_t>(state.range(2));
  Copies packed(rows, columns, format);
  const std::size_t float_copies = std::max<std::size_t>(1, kMemory / (4 * rows * columns));
  const std::vector<float> floats(float_copies * rows * columns, 0.5F);
  const std::vector<float> x(tokens * columns, 0.5F);
  const std::vector<std::int8_t> integers(tokens * columns, std::int8_t{3});
  const std::vector<std::int32_t> offsets(tokens * columns, -768);
  const std::vector<std::int32_t> zero_points(tokens, 5);
  const std::vector<float> scales(tokens, 0.1F);
  std::vector<float> out(tokens * rows);
  const kernels::IntegerTokens integer_tokens = {.tokens = tokens,
                                                 .values = integers.data(),
                                                 .offsets = offsets.data(),
                                                 .zero_points = zero_points.data(),
                                                 .scales = scales.data()};
  const kernels::FloatTokens float_tokens = {.tokens = tokens, .values = x.data()};
  double packed_seconds = 0.0;
  double float_seconds = 0.0;
  std::size_t at = 0;
  for (auto _ : state) {
    const double begin = processor_seconds();
    if (format.float_activations) {
      multiply(set.multiply_floats, packed.next(), float_tokens, out.data());
    } else {
      multiply(set.multiply_integers, packed.next(), integer_tokens, out.data());
    }
    const double middle = processor_seconds();
    benchmark::ClobberMemory();
    at = (at + 1) % float_copies;
    const auto m = static_cast<std::int64_t>(tokens);
    const auto n = static_cast<std::int64_t>(rows);
    const auto k = static_cast<std::int64_t>(columns);
    multiply_transposed({.m = m, .n = n, .k = k}, x.data(), k, floats.data() + at * rows * columns, k, out.data(), n);
    benchmark::ClobberMemory();
    const double end = processor_seconds();
    const double seconds = middle - begin;
    state.SetIterationTime(seconds);
    packed_seconds += seconds;
    float_seconds += end - middle;
  }
  const auto iterations = static_cast<double>(state.iterations());
  const double operations = 2.0 * static_cast<double>(tokens * rows * columns) * iterations;
  state.counters["GOP/s"] = operations / packed_seconds * 1e-9;
  state.counters["GB/s"] = static_cast<double>(packed.bytes()) * iterations / packed_seconds * 1e-9;
  state.counters["float32_GOP/s"] = operations / float_seconds * 1e-9;
  state.counters["x_float32"] = float_seconds / packed_seconds;
}

// Every thread reads its part of memory that is larger than the caches.
void read_memory(benchmark::State& state) {
  static const std::vector<std::uint64_t> memory(kMemory, 1);  // 8 times kMemory bytes
  const std::size_t part = memory.size() / static_cast<std::size_t>(state.threads());
  const std::uint64_t* begin = memory.data() + part * static_cast<std::size_t>(state.thread_index());
  for (auto _ : state) {
    std::uint64_t sums[8] = {};
    for (std::size_t i = 0; i < part; i += 8) {
      for (std::size_t j = 0; j < 8; ++j) sums[j] += begin[i + j];
    }
    benchmark::DoNotOptimize(std::accumulate(std::begin(sums), std::end(sums), std::uint64_t{0}));
  }
  state.counters["bytes"] =
      benchmark::Counter(static_cast<double>(part * sizeof(std::uint64_t)) * static_cast<double>(state.iterations()),
                         benchmark::Counter::kIsRate, benchmark::Counter::kIs1000);
}

#ifdef __x86_64__
constexpr int kPeakSteps = 1 << 20;
constexpr int kChains = 12;

__attribute__((target("avx512f,avx512vnni"))) double peak_avx512_vnni() {
  __m512i sums[kChains] = {};
  for (__m512i& sum : sums) asm volatile("" : "+v"(sum));  // which no compiler takes for equal
  __m512i weights = _mm512_set1_epi8(3);
  const __m512i input = _mm512_set1_epi8(5);
  for (int step = 0; step < kPeakSteps; ++step) {
#pragma GCC unroll 12
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, weights, input);
    asm volatile("" : "+v"(weights));  // what the loop multiplies may have changed, for all the compiler knows
  }
  for (__m512i& sum : sums) benchmark::DoNotOptimize(sum);
  return 64.0 * kChains * kPeakSteps;
}

__attribute__((target("avx2"))) double peak_avx2() {
  __m256i sums[kChains] = {};
  for (__m256i& sum : sums) asm volatile("" : "+x"(sum));  // which no compiler takes for equal
  __m256i weights = _mm256_set1_epi8(3);
  const __m256i input = _mm256_set1_epi8(5);
  for (int step = 0; step < kPeakSteps; ++step) {
#pragma GCC unroll 12
    for (__m256i& sum : sums) sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, input));
    asm volatile("" : "+x"(weights));
  }
  for (__m256i& sum : sums) benchmark::DoNotOptimize(sum);
  return 32.0 * kChains * kPeakSteps;
}

void multiply_at_peak(benchmark::State& state, double (*peak)()) {
  double products = 0.0;
  for (auto _ : state) products += peak();
  state.counters["operations"] =
      benchmark::Counter(2.0 * products, benchmark::Counter::kIsRate, benchmark::Counter::kIs1000);
}
#endif

void add_limits_of_the_machine() {
  const int threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  benchmark::RegisterBenchmark("memory/read", read_memory)->ThreadRange(1, threads)->UseRealTime();
#ifdef __x86_64__
  for (const kernels::PackedKernels& set : kernels::supported_packed_kernels()) {
    const std::string_view name = set.name;
    if (name != "AVX-512 VNNI" && name != "AVX2") continue;
    const auto peak = name == "AVX2" ? peak_avx2 : peak_avx512_vnni;
    benchmark::RegisterBenchmark(("peak/" + std::string(name)).c_str(),
                                 [peak](benchmark::State& state) { multiply_at_peak(state, peak); })
        ->Unit(benchmark::kMillisecond)
        ->ThreadRange(1, threads)
        ->UseRealTime();
  }
#endif
}

constexpr Format kFormats[] = {
    {.name = "int8", .element = PackedElement::kI8, .group_size = 0, .float_activations = false},
    {.name = "int4", .element = PackedElement::kI4, .group_size = 0, .float_activations = false},
    {.name = "int4_g32", .element = PackedElement::kI4, .group_size = 32, .float_activations = false},
    {.name = "int4_g128", .element = PackedElement::kI4, .group_size = 128, .float_activations = false},
    {.name = "int8_weight_only", .element = PackedElement::kI8, .group_size = 0, .float_activations = true},
    {.name = "int4_weight_only", .element = PackedElement::kI4, .group_size = 0, .float_activations = true},
    {.name = "fp16", .element = PackedElement::kF16, .group_size = 0, .float_activations = true},
};

void add_benchmarks() {
  const auto sets = kernels::supported_packed_kernels();
  for (const kernels::PackedKernels& set : sets) {
    if (sets.size() > 1 && &set == &sets.back()) break;  // the scalar set is a definition
    for (const Format& format : kFormats) {
      auto* added =
          benchmark::RegisterBenchmark((std::string(format.name) + "/" + set.name).c_str(),
                                       [&set, &format](benchmark::State& state) { measure(state, set, format); });
      added->ArgNames({"tokens", "in", "out"})->UseManualTime()->Unit(benchmark::kMicrosecond);
      for (const std::int64_t tokens : {1, 4, 8, 64, 512}) {
        added->Args({tokens, 1024, 3072});
        added->Args({tokens, 3072, 1024});
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  add_limits_of_the_machine();
  add_benchmarks();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
