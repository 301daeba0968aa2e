# Every command of the project; `make help` lists them. Works with GNU make 3.81 and later.

SHELL := /bin/sh
PY := .venv/bin/python
# Files of tests at once: compiling, which takes most of their time, uses one core.
TWO_AT_A_TIME := -n 2 --dist loadfile --benchmark-disable
PIP_INSTALL = $(PY) -m pip install --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)")

# On all cores, where pip compiles one module after another. Packages have files for other Pythons: pip passes over them too.
# Their own tests are left out.
BYTE_COMPILE = $(PY) -m compileall -qq -j 0 -x '/tests/' .venv/lib || true

# Prints the interpreter behind this one (an active virtual environment may be the very one to remake), if it can be used.
CHECK_PYTHON := import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.exit(3); \
	import ensurepip, venv; print(sys._base_executable)

ifneq ($(DATA_DIR),)
export VAEBENCH_DATA_DIR := $(DATA_DIR)
endif

.DEFAULT_GOAL := help
.PHONY: help setup bench bench-throughput bench-compare bench-prove bench-ancestor bench-numpyro regress roofline growth overhead test test-slow parity mutations lint format list tables cross-evaluate agreement ablation shape-checks bfloat16 clean always

help: ## List the targets and the variables (the default)
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "make %-20s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@awk -F ' *## ' '/^# [A-Z_]+=.* ## / {printf "%-25s %s\n", substr($$1, 3), $$2}' $(firstword $(MAKEFILE_LIST))
# ARGS="--seed 1" ## more arguments for the command behind bench, test, list, tables or reproduce-*
# PYTHON=python3.12 ## the Python that .venv is made with, instead of the first that fits
# TORCH_INDEX=url ## one more package index to make .venv from, such as PyTorch's index of CPU builds
# DATA_DIR=folder ## where the files of binarized-mnist are
# BASE=revision ## what bench-compare compares this checkout with; HEAD by default
# SAVED=file ## or a run that bench-throughput saved under .benchmarks/
# ANCESTOR=folder ## the checkout of the older scripts that bench-ancestor times

setup: .venv/ready-dev ## Make .venv with all that the targets below need; each makes its part itself

bench: .venv/ready ## Train, test and time all six models on the 8×8 digits; ends in a table
	$(PY) -m benchmarks run --preset quick $(ARGS)

bench-throughput: .venv/ready-dev ## Time every call of the contract by itself; ARGS="-k 'train and 128'" for some
	$(PY) -m benchmarks throughput $(ARGS)

bench-compare: .venv/ready-dev ## Fail if this checkout is slower than BASE=revision, or than SAVED=file of bench-throughput
	$(PY) -m benchmarks compare $(if $(SAVED),--saved "$(SAVED)",--base "$(or $(BASE),HEAD)") $(ARGS)

bench-prove: .venv/ready-dev ## Put bench-compare to the test: unchanged code passes, 15 % slower code is caught
	$(PY) -m benchmarks prove-compare $(ARGS)

bench-ancestor: .venv/ready ## Time the older scripts in ANCESTOR=folder in turns with their presets here (docs/peers.md)
	$(PY) -m benchmarks ancestor "$(ANCESTOR)" $(ARGS)

bench-numpyro: .venv/ready .venv-numpyro/ready ## Time NumPyro's SVI, in an environment of its own, in turns with ours
	$(PY) -m benchmarks numpyro --python .venv-numpyro/bin/python $(ARGS)

regress: .venv/ready ## After an upgrade: fail if parity, quality or speed is worse than benchmarks/baselines/ (minutes)
	$(PY) -m benchmarks regress $(ARGS)

roofline: .venv/ready ## Draw docs/figures/roofline.png from the committed report of bench-throughput
	$(PY) -m benchmarks roofline $(ARGS)

growth: .venv/ready ## Speed, compile time and memory as batch, hidden size, flow depth or K grows; ARGS=--resume goes on
	$(PY) -m benchmarks growth $(ARGS)

overhead: .venv/ready ## What the suite itself costs: beside a bare loop, outside of its steps, from the command to the first
	$(PY) -m benchmarks overhead $(ARGS)

test: .venv/ready-dev ## Run the tests, two at a time; ARGS="-n 0 -k name" for some of them
	$(PY) -m pytest $(TWO_AT_A_TIME) $(ARGS)

test-slow: .venv/ready-dev ## Run the tests that `make test` leaves out, since they take long (minutes)
	$(PY) -m pytest $(TWO_AT_A_TIME) -m slow $(ARGS)

parity: .venv/ready ## Compare the backends rung by rung at the standard sizes (minutes)
	$(PY) -m benchmarks parity $(ARGS)

mutations: .venv/ready-dev ## Inject every fault of benchmarks/mutations.py: each must be caught (minutes)
	$(PY) -m pytest -n 2 --benchmark-disable tests/parity/every_mutation.py $(ARGS)

lint: .venv/ready-dev ## Check format, style and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: .venv/ready-dev ## Format the code and fix what can be fixed without thought
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

list: .venv/ready ## Show the backends that are installed here with their devices, or why one is unavailable
	$(PY) -m benchmarks list $(ARGS)

tables: .venv/ready ## Write the tables of README.md and docs/ from benchmarks/records/
	$(PY) -m benchmarks tables $(ARGS)

cross-evaluate: .venv/ready ## Evaluate the standard runs of results/, or checkpoints in ARGS, in every backend
	$(PY) -m benchmarks cross-evaluate $(or $(ARGS),results/standard_*.h5)

agreement: .venv/ready ## Train the backends side by side on the same noise, in both precisions
	$(PY) -m benchmarks agreement $(ARGS)

ablation: .venv/ready ## From the older scripts' settings, one difference at a time made equal
	$(PY) -m benchmarks ablation $(ARGS)

shape-checks: .venv/ready ## Time training with shape checks on and off (minutes)
	$(PY) -m benchmarks shape-checks $(ARGS)

bfloat16: .venv/ready ## Measure what --precision bfloat16 gains in speed and costs in log p(x)
	$(PY) -m benchmarks bfloat16 $(ARGS)

reproduce-quick: ## Run the rows of README.md's table "quick" again and compare (minutes)
reproduce-standard: ## The same for its table "standard" (hours on a CPU)
reproduce-ancestor: ## The same for its table "ancestor" (hours on a CPU)
reproduce-%: .venv/ready always
	$(PY) -m benchmarks reproduce $* $(ARGS)
always:

clean: ## Remove .venv, .venv-numpyro and the tools' caches; results/ and .benchmarks/ stay
	rm -rf .venv .venv-numpyro .mypy_cache .ruff_cache .pytest_cache
	find backends benchmarks common tests -name __pycache__ -prune -exec rm -rf {} +

# .venv has two stamps, each written only after success: `ready` for cpu.txt, `ready-dev` for dev.txt too. They bear the time of
# the set-up's start, so that pins changed during it count. Where `ready` is missing or older than its pins, .venv is made anew.
.venv/ready: environments/base.txt environments/cpu.txt $(wildcard environments/*-cpu.txt)
	@set -e; \
	if [ -n "$(PYTHON)" ]; then set -- "$(PYTHON)"; else set -- python3 python3.13 python3.12 python3.11; fi; \
	python=; lacking=; \
	for candidate in "$$@"; do \
		status=0; found=$$("$$candidate" -c '$(CHECK_PYTHON)' 2>/dev/null) || status=$$?; \
		if [ $$status = 0 ]; then python=$$found; break; fi; \
		if [ $$status = 1 ] && [ -z "$$lacking" ]; then lacking=$$candidate; fi; \
	done; \
	if [ -z "$$python" ] && [ -n "$$lacking" ]; then \
		echo "'$$lacking' lacks the modules venv and ensurepip: install them (Debian and Ubuntu: the package python3-venv)," \
			"or name another Python: make PYTHON=/path/to/python3.12." >&2; exit 1; \
	elif [ -z "$$python" ]; then \
		version=$$("$$1" -c 'import platform; print(platform.python_version())' 2>/dev/null) || version='not found'; \
		echo "vaebench needs Python 3.11, 3.12 or 3.13, and '$$1' is $$version:" \
			"install one of them, or name it: make PYTHON=/path/to/python3.12." >&2; exit 1; \
	fi; \
	echo "Making .venv with $$python; this takes minutes, once."; \
	rm -rf .venv; \
	"$$python" -m venv .venv; \
	touch .venv/started; \
	$(PIP_INSTALL) --no-compile -r environments/cpu.txt; \
	$(BYTE_COMPILE); \
	mv .venv/started .venv/ready

.venv/ready-dev: .venv/ready environments/dev.txt
	@set -e; \
	touch .venv/started-dev; \
	$(PIP_INSTALL) -r environments/cpu.txt -r environments/dev.txt; \
	mv .venv/started-dev .venv/ready-dev

.venv-numpyro/ready: .venv/ready environments/numpyro.txt
	rm -rf .venv-numpyro
	$(PY) -m venv .venv-numpyro
	.venv-numpyro/bin/python -m pip install --disable-pip-version-check -r environments/numpyro.txt
	touch .venv-numpyro/ready
