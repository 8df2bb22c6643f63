// Speed of the packed kernels beside our float32 products, one core, layers of Qwen3-0.6B. Weights come from memory, as
// they do when a model is larger than the caches: each multiplication takes the next of many copies. Both are timed in
// turns, by this thread's processor time, so that other work on the machine weighs on both and little.
//
// GOP/s counts a multiplication and an addition for each weight and token, GB/s the packed weights' bytes; x_float32 is
// the time of float32 over that of the packed kernel.
#include <benchmark/benchmark.h>
#include <hwy/aligned_allocator.h>
#include <time.h>

#include <algorithm>
#include <string>
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
    kernel(part, x, out);
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
  const std::vector<std::int32_t> sums(tokens * columns, 96);
  const std::vector<std::int32_t> zero_points(tokens, 5);
  const std::vector<float> scales(tokens, 0.1F);
  std::vector<float> out(tokens * rows);
  const kernels::IntegerTokens integer_tokens = {.tokens = tokens,
                                                 .values = integers.data(),
                                                 .sums = sums.data(),
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
      for (const std::int64_t tokens : {1, 8, 64, 512}) {
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
  add_benchmarks();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
