# make demo   sets everything up in .venv, runs four nodes under load for 15 seconds, and says what came of it
# make test   sets everything up in .venv, then style, types and all tests
# make sim    simulates networks with faults for 20 minutes (MINUTES=n, or SEEDS=n networks)
# make sim-replay SEED=n   shows what happens in one of them
# make soak   four nodes under load, killed, frozen and cut apart, for 10 minutes (MINUTES=n, SEED=n)
# make mutants             sabotages the code, line by line, and expects each to be noticed
# make clean  takes away what the others made
#
# Needs Python 3.11 or newer with pip, and make. The first run installs, later ones start at once.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
comma := ,
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := dev$(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),$(comma)avx512)
STAMP := $(VENV)/.installed

.PHONY: demo test sim sim-replay soak mutants install clean

demo: $(STAMP)
	@$(BIN)/python -m tools.demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest
	@echo "every branch of node/consensus:"
	@$(BIN)/coverage run -m pytest -q tests/node/consensus
	@$(BIN)/coverage report

MINUTES ?=
SEEDS ?=

sim: $(STAMP)
	@$(BIN)/python tests/sim/sim_hunt.py $(if $(SEEDS),--seeds $(SEEDS),--minutes $(or $(MINUTES),20))

sim-replay: $(STAMP)
	@$(BIN)/python tests/sim/sim_hunt.py --replay $(SEED)

soak: $(STAMP)
	$(BIN)/pytest -m long tests/e2e
	@$(BIN)/python tests/soak/soak.py --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

mutants: $(STAMP)
	@$(BIN)/python tests/mutants/run_mutants.py

install: $(STAMP)

# Debian's python3 can lack ensurepip; then the pip outside installs into the environment.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than Python 3.11; install 3.11 or give PYTHON=/path/to/python3.11"; exit 1; }
	@echo "installing into $(VENV) (once; takes a minute)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || $(PYTHON) -m venv --without-pip --clear $(VENV)
	@if $(BIN)/python -c 'import pip' 2>/dev/null; then pip="$(BIN)/python -m pip"; \
	  else pip="$(PYTHON) -m pip --python $(BIN)/python"; fi; \
	  $$pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV) demo build .coverage *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find pipeline node tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
