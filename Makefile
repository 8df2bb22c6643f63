# A thin front to CMake presets, pip and pytest. Installs what is missing, uses what is already built.

PYTHON ?= python3
VENV := .venv
BIN := build/release/bin/diffulex-edge
PACKAGE_FILES := $(shell git ls-files --cached --others --exclude-standard CMakeLists.txt cmake include pyproject.toml \
  python src)
# Warnings are errors in CI. UNITY=OFF compiles each file separately: for who edits and compiles a file again and again.
OPTIONS := $(if $(CI),-DDIFFULEX_EDGE_WERROR=ON) $(if $(UNITY),-DDIFFULEX_EDGE_UNITY=$(UNITY))
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc)

.PHONY: build benchmarks demo test test-unit test-kernels test-asan test-aarch64 test-integration test-python \
  test-package test-tools package bench bench-coreml bench-decoding bench-generation bench-module bench-plan \
  bench-qnn bench-rounding bench-runtime bench-steps fuzz fuzz-bundles fuzz-modules lint models runner \
  format clean

build: build/packages.stamp
	@cmake --preset release $(OPTIONS) >build/configure.log || { cat build/configure.log; exit 1; }
	cmake --build --preset release --target diffulex-edge

## The main job on the bundled model: every format, run in ExecuTorch, in one table.
demo: build $(VENV)/test.stamp
	$(VENV)/bin/python examples/demo.py --command $(BIN)

## The unit tests run with sanitizers, compiled by Clang, which takes half of GCC's time and warns of other things; the
## command that the integration tests run is GCC's optimized one; the kernels, whose code the optimizer makes, are tested
## as they ship.
test: test-kernels test-asan test-aarch64 test-package test-integration test-python

test-kernels: build
	cmake --build --preset release --target kernels_test
	build/release/bin/kernels_test --gtest_brief=1

## All unit tests, optimized and without sanitizers: what one runs while writing code.
test-unit: build
	cmake --build --preset release --target unit_tests kernels_test
	ctest --preset release -j $(CMAKE_BUILD_PARALLEL_LEVEL)

test-asan: build/packages-sanitizers.stamp
	@mkdir -p build; cmake --preset asan $(OPTIONS) >build/configure-asan.log || { cat build/configure-asan.log; exit 1; }
	cmake --build --preset asan --target unit_tests kernels_test diffulex-edge test_tools
	ctest --preset asan -j $(CMAKE_BUILD_PARALLEL_LEVEL)

test-aarch64: build/packages-cross.stamp
	@mkdir -p build; cmake --preset aarch64 $(OPTIONS) >build/configure-aarch64.log || { cat build/configure-aarch64.log; exit 1; }
	cmake --build --preset aarch64
	ctest --preset aarch64 -j $(CMAKE_BUILD_PARALLEL_LEVEL)

## Installs the library and builds a program against it with find_package.
test-package: build
	tests/package/run build/release build/package-test

## Builds build/wheels/*.whl and installs it into the environment of the tests.
package: $(VENV)/package.stamp

test-integration: test-tools runner build/packages-browser.stamp test-asan $(VENV)/test.stamp $(VENV)/package.stamp
	DIFFULEX_EDGE=$(BIN) DIFFULEX_EDGE_ASAN=build/asan/bin/diffulex-edge \
	  $(VENV)/bin/python -m pytest -q -n $(CMAKE_BUILD_PARALLEL_LEVEL) --dist worksteal tests/integration

## The C++ runner of bundles over the executorch package's runtime: what it writes here, it writes on a phone. It compiles
## only what a phone's runner needs of the library (runners/CMakeLists.txt).
runner: build/packages-wheel.stamp $(VENV)/test.stamp
	@cmake -S runners -B build/runner -G Ninja $(OPTIONS) -DPython3_EXECUTABLE=$(CURDIR)/$(VENV)/bin/python \
	  -DDIFFULEX_EDGE_EXECUTORCH_WHEEL=$$($(VENV)/bin/python -c 'import executorch; print(next(iter(executorch.__path__)))') \
	  >build/configure-runner.log || { cat build/configure-runner.log; exit 1; }
	cmake --build build/runner

## Every reader of files, each for SECONDS, by libFuzzer under the sanitizers (tests/fuzz/README.md). READERS="gguf npy"
## runs these.
SECONDS ?= 60
fuzz: build/packages-sanitizers.stamp
	@cmake --preset fuzz $(OPTIONS) >build/configure-fuzz.log || { cat build/configure-fuzz.log; exit 1; }
	cmake --build --preset fuzz --target fuzzers
	$(PYTHON) tests/fuzz/run.py --build build/fuzz --seconds $(SECONDS) --jobs $(CMAKE_BUILD_PARALLEL_LEVEL) $(READERS)

## A hundred thousand damaged bundles, opened as a runner does; none may crash, hang or end in an internal error.
FUZZ_BUNDLES ?= 100000
fuzz-bundles: test-tools $(VENV)/test.stamp
	$(VENV)/bin/python tests/integration/fuzz_bundles.py --cases $(FUZZ_BUNDLES) --seed $(FUZZ_SEED)

## Ten thousand random modules through every backend, compared with PyTorch: hours. FUZZ_MODULES=300 and FUZZ_SEED=1 do less.
FUZZ_MODULES ?= 10000
FUZZ_SEED ?= 0
fuzz-modules: build $(VENV)/test.stamp $(VENV)/package.stamp
	$(VENV)/bin/python tests/integration/random_modules.py --count $(FUZZ_MODULES) --seed $(FUZZ_SEED)

## The user guide's table of published models, measured (a minute). UPDATE=1 puts it into the guide; SIZES=1 measures instead
## what planning the published sizes takes.
models: test-tools $(VENV)/test.stamp
	@DIFFULEX_EDGE=$(BIN) $(VENV)/bin/python scripts/print_models.py $(if $(UPDATE),--update) $(if $(SIZES),--sizes)

# Programs through which the tests reach what has no subcommand.
test-tools: build
	cmake --build --preset release --target test_tools

## The Python package on modules of PyTorch.
test-python: build $(VENV)/test.stamp $(VENV)/package.stamp
	DIFFULEX_EDGE=$(BIN) $(VENV)/bin/python -m pytest -q -n $(CMAKE_BUILD_PARALLEL_LEVEL) --dist worksteal tests/python

## The benchmarks' own programs.
benchmarks: build
	cmake --build --preset release --target benchmarks

bench: benchmarks $(VENV)/test.stamp
	build/release/bin/kernels_benchmark
	build/release/bin/packed_benchmark
	$(VENV)/bin/python benchmarks/bench.py $(BENCH_ARGS)

## Core ML packages beside coremltools' own route (some minutes, and 15 GB of memory for coremltools).
bench-coreml: build $(VENV)/test.stamp
	$(VENV)/bin/python benchmarks/coreml.py $(BENCH_ARGS)

## A module through torch.export beside the same model's checkpoint.
bench-module: build $(VENV)/test.stamp $(VENV)/package.stamp
	$(VENV)/bin/python benchmarks/module_route.py $(BENCH_ARGS)

## QNN formats on the bundled model (half an hour: Qualcomm's emulator takes seconds for a sequence).
bench-qnn: build $(VENV)/test.stamp $(VENV)/package.stamp
	$(VENV)/bin/python benchmarks/qnn.py $(BENCH_ARGS)

## Rounding methods on a trained model, beside torchao (an hour; what was measured before is not measured again).
bench-rounding: build $(VENV)/test.stamp $(VENV)/bench.stamp
	scripts/install-packages bench
	$(VENV)/bin/python benchmarks/rounding_methods.py $(BENCH_ARGS)

## Mixed-precision plans of a trained model beside uniform formats of the same size; half an hour.
bench-plan: build $(VENV)/test.stamp $(VENV)/bench.stamp
	scripts/install-packages bench
	$(VENV)/bin/python benchmarks/mixed_precision.py $(BENCH_ARGS)

## Forward passes over tokens and cached context; BENCH_ARGS="--llama-bench PATH" measures llama.cpp beside them.
bench-generation: build $(VENV)/test.stamp
	$(VENV)/bin/python benchmarks/generation.py $(BENCH_ARGS)

## Text by LLaDA's own schedule; BENCH_ARGS="--llama-diffusion PATH" measures llama.cpp's llama-diffusion-cli beside it.
bench-decoding: build $(VENV)/test.stamp
	$(VENV)/bin/python benchmarks/decoding.py $(BENCH_ARGS)

## Steps of a program with a cache in ExecuTorch, beside whole sequences without one.
bench-steps: build $(VENV)/test.stamp
	$(VENV)/bin/python benchmarks/steps.py $(BENCH_ARGS)

## Speed and memory of the CPU runtime beside OpenBLAS itself.
bench-runtime: $(VENV)/test.stamp
	scripts/install-packages build bench
	$(MAKE) benchmarks
	$(VENV)/bin/python benchmarks/runtime.py $(BENCH_ARGS)

lint: build $(VENV)/lint.stamp
	@$(VENV)/bin/clang-format --dry-run --Werror $(CXX_FILES)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PYTHON) scripts/check_rooms.py
	$(PYTHON) scripts/run_clang_tidy.py --clang-tidy $(VENV)/bin/clang-tidy --build build/release

format: $(VENV)/lint.stamp
	$(VENV)/bin/clang-format -i $(CXX_FILES)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf build

CXX_FILES = $(shell git ls-files --cached --others --exclude-standard '*.cc' '*.h')

# Links the library that `build` compiled; `pip install .` compiles it itself.
$(VENV)/package.stamp: $(PACKAGE_FILES) $(VENV)/package-build.stamp | build
	rm -rf build/wheels
	$(VENV)/bin/python -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w build/wheels \
	  -C cmake.define.DIFFULEX_EDGE_PREBUILT_LIBRARY=$(CURDIR)/build/release/src/libdiffulex_edge.a .
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check --no-deps --force-reinstall build/wheels/*.whl
	@touch $@

build/packages.stamp: scripts/install-packages
	@mkdir -p build
	scripts/install-packages build
	@touch $@

build/packages-%.stamp: scripts/install-packages
	@mkdir -p build
	scripts/install-packages build $*
	@touch $@

$(VENV)/bin/python:
	scripts/install-packages python
	$(PYTHON) -m venv $(VENV)

$(VENV)/%.stamp: requirements/%.txt $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@
