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

# Sets $$python to the first interpreter that fits, or ends in one sentence.
FIND_PYTHON = set -e; \
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
	fi;

# LOCKED=1 installs the wheels of cpu-locked.txt, which lists the tools of dev.txt too. pip refuses a file with another hash.
HASHED := --require-hashes --only-binary :all: -r environments/cpu-locked.txt
CPU_PINS := $(if $(LOCKED),$(HASHED),-r environments/cpu.txt)
DEV_PINS := $(if $(LOCKED),$(HASHED),-r environments/cpu.txt -r environments/dev.txt)

# PyTorch's CPU build has a version of its own, 2.13.0+cpu. Where only the default build's hashes are listed, pip takes that.
CHECK_LOCKED = $(if $(and $(LOCKED),$(TORCH_INDEX)),grep -q '^torch==[0-9.]*+' environments/cpu-locked.txt || { \
	echo "environments/cpu-locked.txt lists PyTorch's default build alone: leave TORCH_INDEX out" \
		"or write the file anew with \"make lock TORCH_INDEX=$(TORCH_INDEX)\"." >&2; exit 2; };)

ifneq ($(DATA_DIR),)
export VAEBENCH_DATA_DIR := $(DATA_DIR)
endif

.DEFAULT_GOAL := help
.PHONY: help setup bench report bench-throughput bench-compare regress parity tables list \
	test test-slow torture mutations lint format audit lock test-matrix clean always

help: # List the targets and the variables (the default)
	@awk -F ':.*## ' '/^##@ / {print substr($$0, 5)} \
		/^[a-z][a-z0-9%-]*:.*## / {sub(/%/, "NAME", $$1); printf "  make %-20s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo Variables
	@awk -F ' *## ' '/^# [A-Z_]+=.* ## / {printf "  %-25s %s\n", substr($$1, 3), $$2}' $(firstword $(MAKEFILE_LIST))
# ARGS="--seed 1" ## more arguments for the command behind a target; ARGS=--help lists them
# PYTHON=python3.12 ## the Python that .venv is made with, instead of the first that fits
# TORCH_INDEX=url ## one more package index to make .venv from, such as PyTorch's index of CPU builds
# LOCKED=1 ## make .venv from the wheels whose hashes are in environments/cpu-locked.txt, and no others
# DATA_DIR=folder ## where the files of binarized-mnist are
# BASE=revision ## the revision that bench-compare compares this checkout with; HEAD by default
# SAVED=file ## or a run that bench-throughput saved under .benchmarks/
# ANCESTOR=folder ## the checkout of the older scripts that study-ancestor times

##@ Models
bench: .venv/ready ## Train, test and time both families in each framework on the 8×8 digits; ends in a table
	$(PY) -m benchmarks run --preset quick $(ARGS)

report: .venv/ready ## One HTML page of the runs in results/; ARGS="FOLDER …" of others
	$(PY) -m benchmarks report $(ARGS)

list: .venv/ready ## Show the backends that are installed here with their devices, or why one is unavailable
	$(PY) -m benchmarks list $(ARGS)

##@ Proofs
parity: .venv/ready ## Compare the backends rung by rung (minutes); ARGS="--checkpoints FILE …" compares trained models
	$(PY) -m benchmarks parity $(ARGS)

bench-compare: .venv/ready-dev ## Fail if this checkout is slower than BASE=revision, or than SAVED=file of bench-throughput
	$(PY) -m benchmarks compare $(if $(SAVED),--saved "$(SAVED)",--base "$(or $(BASE),HEAD)") $(ARGS)

regress: .venv/ready ## After an upgrade: fail if parity, quality or speed is worse than benchmarks/baselines/ (minutes)
	$(PY) -m benchmarks regress $(ARGS)

reproduce-quick: ## Run the published rows of the table "quick" again and compare (minutes)
reproduce-standard: ## The same for the table "standard" (hours on a CPU)
reproduce-resnet: ## The same for the table "resnet" (many hours on a CPU)
reproduce-ancestor: ## The same for the table "ancestor" (hours on a CPU)
reproduce-quick reproduce-standard reproduce-resnet reproduce-ancestor: .venv/ready always
	$(PY) -m benchmarks reproduce $(@:reproduce-%=%) $(ARGS)

##@ Publications
bench-throughput: .venv/ready-dev ## Time every call of the contract by itself; ARGS="-k 'train and 128'" for some
	$(PY) -m benchmarks study throughput $(ARGS)

study-%: .venv/ready always ## Measure a study, its table and its figure (names: study --help); ARGS=--resume goes on
	$(PY) -m benchmarks study $* $(STUDY_FIRST) $(ARGS)
study-throughput: .venv/ready-dev
study-numpyro: .venv-numpyro/ready
study-numpyro: STUDY_FIRST = --python .venv-numpyro/bin/python
study-ancestor: STUDY_FIRST = $(if $(ANCESTOR),"$(ANCESTOR)")
STUDY_FIRST :=
always:

tables: .venv/ready ## Write the tables of README.md and docs/ from benchmarks/records/
	$(PY) -m benchmarks tables $(ARGS)

##@ Code
setup: .venv/ready-dev ## Make .venv with all that the targets need; each target makes its part itself

test: .venv/ready-dev ## Run the tests, two at a time; ARGS="-n 0 -k name" for some of them
	$(PY) -m pytest $(TWO_AT_A_TIME) $(ARGS)

test-slow: .venv/ready-dev ## Run the tests that `make test` leaves out, since they take long (minutes)
	$(PY) -m pytest $(TWO_AT_A_TIME) -m slow $(ARGS)

torture: .venv/ready-dev ## Kill processes, damage files, fill disks: nothing may be lost (hours); ARGS=--resume goes on
	$(PY) -m benchmarks study reliability $(ARGS)

mutations: .venv/ready-dev ## Inject every fault of tests/parity/mutations.txt: each must be caught (minutes)
	$(PY) -m pytest -n 2 --benchmark-disable tests/parity/every_mutation.py $(ARGS)

lint: .venv/ready-dev ## Check format, style and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: .venv/ready-dev ## Format the code and fix what can be fixed automatically
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

clean: ## Remove .venv, the other environments and the tools' caches; results/ and .benchmarks/ stay
	rm -rf .venv .venv-numpyro .venv-audit .venv-matrix .mypy_cache .ruff_cache .pytest_cache
	find backends benchmarks common tests -name __pycache__ -prune -exec rm -rf {} +

##@ Packages
audit: .venv-audit/ready ## Look for known vulnerabilities of the packages in environments/cpu-locked.txt
	@rm -f .venv-audit/found; status=0; \
	.venv-audit/bin/python -m pip_audit --strict --disable-pip --require-hashes -r environments/cpu-locked.txt \
		--progress-spinner off -f markdown -o .venv-audit/found $(ARGS) 2> .venv-audit/said || status=$$?; \
	said=$$(tail -n 1 .venv-audit/said); \
	if [ -s .venv-audit/found ]; then cat .venv-audit/found; \
	elif [ $$status = 0 ]; then echo "$$said"; \
	else \
		echo "Nothing is known of these packages, since pip-audit ended without an answer ($$said);" \
			"another database may give one: make audit ARGS=\"--vulnerability-service osv\"." >&2; \
		status=2; \
	fi; \
	exit $$status

lock: .venv-audit/ready ## Write environments/cpu-locked.txt after a change of pins; ARGS=--upgrade for newer packages beneath
	@.venv-audit/bin/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --only-binary :all: \
		--no-annotate --custom-compile-command "make lock" \
		$(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)" --index-strategy unsafe-best-match --upgrade-package torch) \
		--output-file environments/cpu-locked.txt environments/cpu.txt environments/dev.txt $(ARGS)

test-matrix: .venv-audit/ready ## Run some tests on each Python, and with the oldest and newest packages; ARGS=tests for all
	.venv-audit/bin/python tests/matrix.py $(ARGS)

# An older target answers with its present name.
NOW_bench-ancestor := make study-ancestor
NOW_bench-numpyro := make study-numpyro
NOW_bench-prove := make test-slow
NOW_cross-evaluate := make parity ARGS="--checkpoints FILE …"
NOW_roofline := make study-throughput ARGS=--draw
NOW_shape-checks := docs/shapes.md
$(foreach name,ablation agreement bfloat16 growth overhead,$(eval NOW_$(name) := make study-$(name)))
OLD_TARGETS := $(patsubst NOW_%,%,$(filter NOW_%,$(.VARIABLES)))
.PHONY: $(OLD_TARGETS)
$(OLD_TARGETS):
	@echo '"make $@" is now "$(NOW_$@)".' >&2; exit 2

# With LOCKED=1, a .venv that was made without, or from an older cpu-locked.txt, is made anew.
UNLESS_LOCKED := $(if $(LOCKED),environments/cpu-locked.txt $(if $(wildcard .venv/locked),,always))

# .venv has two stamps, each written only after success: `ready` for cpu.txt, `ready-dev` for dev.txt too. They bear the time of
# the set-up's start, so that pins changed during it count. Where `ready` is missing or older than its pins, .venv is made anew.
.venv/ready: environments/base.txt environments/cpu.txt $(wildcard environments/*-cpu.txt) $(UNLESS_LOCKED)
	@$(FIND_PYTHON) \
	$(CHECK_LOCKED) \
	echo "Making .venv with $$python; this takes minutes, once."; \
	rm -rf .venv; \
	"$$python" -m venv .venv; \
	touch .venv/started; \
	$(PIP_INSTALL) --no-compile $(CPU_PINS); \
	$(BYTE_COMPILE); \
	$(if $(LOCKED),touch .venv/locked;) \
	mv .venv/started .venv/ready

.venv/ready-dev: .venv/ready environments/dev.txt
	@set -e; \
	touch .venv/started-dev; \
	$(if $(LOCKED),,rm -f .venv/locked;) \
	$(PIP_INSTALL) $(DEV_PINS); \
	mv .venv/started-dev .venv/ready-dev

.venv-numpyro/ready: .venv/ready environments/numpyro.txt
	rm -rf .venv-numpyro
	$(PY) -m venv .venv-numpyro
	.venv-numpyro/bin/python -m pip install --disable-pip-version-check -r environments/numpyro.txt
	touch .venv-numpyro/ready

.venv-audit/ready: environments/audit.txt
	@$(FIND_PYTHON) \
	rm -rf .venv-audit; \
	"$$python" -m venv .venv-audit; \
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check -r environments/audit.txt; \
	touch .venv-audit/ready
