# Everything runs in .venv, which is made when it is missing or when the dependencies changed.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

PROMPT ?= What is the capital of France?
NODES  ?= 2
ROUNDS ?= 3
WORKERS ?= 2
export PROMPT

.PHONY: demo chaos test check format bench peers proof clean

demo: $(STAMP)
	@$(BIN)/paceline run smollm2-135m-instruct "$$PROMPT" \
	    --nodes $(NODES) --min-nodes $(NODES) --temperature 0

chaos: $(STAMP)
	@$(BIN)/paceline chaos

# A file with whole clusters stays on one of the WORKERS, for its tests share them; pytest says 5 where
# TESTS has none of a kind.
test: $(STAMP)
	@$(BIN)/python -m pytest -q -n $(WORKERS) -m "not proof and not real" $(TESTS) || test $$? = 5
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m "real and not proof" $(TESTS) || test $$? = 5

proof: $(STAMP)
	@$(BIN)/python -m pytest -q -m proof --hypothesis-profile default $(TESTS)

check: $(STAMP)
	@$(BIN)/ruff format --check --quiet paceline tests benchmarks setup.py
	@$(BIN)/ruff check --quiet paceline tests benchmarks setup.py
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(STAMP)
	@$(BIN)/ruff format paceline tests benchmarks setup.py
	@$(BIN)/ruff check --fix paceline tests benchmarks setup.py

# Wants `make peers` once; what is not installed is said and left out. ROUNDS and PARTS are to taste.
bench: $(STAMP)
	@$(BIN)/python -m benchmarks $(PARTS) --rounds $(ROUNDS) --docs

peers: $(STAMP)
	@$(BIN)/python -m benchmarks.peers

clean:
	rm -rf $(VENV) .peers build *.egg-info

$(STAMP): pyproject.toml constraints.txt setup.py $(wildcard paceline/engine/kernels/csrc/*)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a few minutes the first time) …"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@
