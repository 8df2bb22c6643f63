// The best FLOP/s that OpenBLAS itself reaches in c [m, n] = a [m, k] * b [n, k]^T, with its own threads.
//
//   blas_benchmark THREADS SECONDS M,N,K...
//
// prints a JSON list with a rate for each shape: "flops", of wall time, and "flops_of_cpu", of the CPU time that the
// multiplication took, which other work on the machine disturbs less.

#include <cblas.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string_view>
#include <vector>

namespace {

struct Shape {
  int m = 0;
  int n = 0;
  int k = 0;
};

struct Rate {
  double flops = 0.0;
  double flops_of_cpu = 0.0;
};

double cpu_seconds() {
  std::timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

bool parse(std::string_view text, Shape& shape) {
  const std::array<int*, 3> sizes = {&shape.m, &shape.n, &shape.k};
  for (int* size : sizes) {
    const auto result = std::from_chars(text.data(), text.data() + text.size(), *size);
    if (result.ec != std::errc() || *size <= 0) {
      return false;
    }
    text.remove_prefix(static_cast<std::size_t>(result.ptr - text.data()));
    if (!text.empty() && text.front() == ',') {
      text.remove_prefix(1);
    }
  }
  return text.empty();
}

// Multiplies until `seconds` have passed, at least three times.
Rate measure(const Shape& shape, double seconds) {
  const auto size = [](int rows, int columns) {
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
  };
  const std::vector<float> a(size(shape.m, shape.k), 0.5F);
  const std::vector<float> b(size(shape.n, shape.k), 0.25F);
  std::vector<float> c(size(shape.m, shape.n));
  const double operations = 2.0 * static_cast<double>(size(shape.m, shape.n)) * static_cast<double>(shape.k);
  Rate best;
  const auto begin = std::chrono::steady_clock::now();
  const auto passed = [](std::chrono::steady_clock::time_point since) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
  };
  for (int run = 0; run < 3 || passed(begin) < seconds; ++run) {
    const double cpu = cpu_seconds();
    const auto start = std::chrono::steady_clock::now();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, shape.m, shape.n, shape.k, 1.0F, a.data(), shape.k, b.data(),
                shape.k, 0.0F, c.data(), shape.n);
    best.flops = std::max(best.flops, operations / passed(start));
    best.flops_of_cpu = std::max(best.flops_of_cpu, operations / (cpu_seconds() - cpu));
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string_view> words(argv + 1, argv + argc);
  int threads = 0;
  double seconds = 0.0;
  std::vector<Shape> shapes(words.size() < 3 ? 0 : words.size() - 2);
  bool good = !shapes.empty();
  if (good) {
    std::from_chars(words[0].data(), words[0].data() + words[0].size(), threads);
    std::from_chars(words[1].data(), words[1].data() + words[1].size(), seconds);
    good = threads > 0 && seconds > 0.0;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      good = good && parse(words[i + 2], shapes[i]);
    }
  }
  if (!good) {
    std::fputs("usage: blas_benchmark THREADS SECONDS M,N,K...\n", stderr);
    return 2;
  }
  openblas_set_num_threads(threads);
  const char* separator = "[";
  for (const Shape& shape : shapes) {
    const Rate rate = measure(shape, seconds);
    std::printf("%s{\"m\": %d, \"n\": %d, \"k\": %d, \"flops\": %.6g, \"flops_of_cpu\": %.6g}", separator, shape.m,
                shape.n, shape.k, rate.flops, rate.flops_of_cpu);
    separator = ", ";
  }
  std::puts("]");
  return 0;
}
