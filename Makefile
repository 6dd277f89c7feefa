# make help says what there is. Needs python3 (3.11 or newer) with venv, and GNU make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
JOBS   ?= auto

# Where `make install` puts what. With DESTDIR all of it goes below that folder, for who makes a package.
DESTDIR    :=
prefix     := /usr/local
sysconfdir := /etc
# systemd looks below /usr/lib and /usr/local/lib, and in no other prefix.
systemddir := $(if $(filter /usr,$(prefix)),/usr/lib,/usr/local/lib)
PLACES      = DESTDIR='$(DESTDIR)' prefix='$(prefix)' sysconfdir='$(sysconfdir)' systemddir='$(systemddir)'

.DEFAULT_GOAL := help
.PHONY: help demo install uninstall test test-all check node soak bench format clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo     install into .venv and run rekeyd in front of a built-in service'
	@echo 'make install  install below $(prefix), with the units; make uninstall takes it away again'
	@echo 'make test     every check: ruff, mypy, import contracts, pytest'
	@echo 'make test-all the same on both event loops, with one worker and with two: an hour'
	@echo 'make node     install the JavaScript clients that some tests drive'
	@echo 'make soak     the tests that take minutes'
	@echo 'make bench    what it costs beside others; ARGS="--quick" for two minutes of it, ARGS="--help" for more'
	@echo 'make format   format the code and mend what ruff can mend'
	@echo 'make clean    remove .venv and what the tools left'

demo: $(VENV)/.installed
	@$(BIN)/rekeyd demo

install: $(VENV)/.created
	@$(PLACES) PYTHON='$(PYTHON)' PIP='$(BIN)/python -m pip' sh install.sh install

uninstall:
	@$(PLACES) sh install.sh uninstall

test: check
	@echo 'pytest'
	@$(BIN)/python -m pytest -q -n $(JOBS)

test-all: check
	@for loop in asyncio uvloop; do for workers in 1 2; do \
	  echo "pytest --loop $$loop --workers $$workers"; \
	  $(BIN)/python -m pytest -q -n $(JOBS) --loop $$loop --workers $$workers || exit; \
	done; done

check: $(VENV)/.installed-dev
	@echo 'ruff check'
	@$(BIN)/ruff check --quiet daemon tests
	@echo 'ruff format --check'
	@$(BIN)/ruff format --quiet --check daemon tests
	@echo 'mypy'
	@$(BIN)/mypy --no-error-summary
	@echo 'lint-imports'
	@$(BIN)/lint-imports >$(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }

# Without a lock file: its addresses would be those of one registry. The versions are in package.json.
node:
	@cd tests/node && npm install --no-package-lock --no-audit --no-fund --silent

soak: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest -m soak --timeout 1800

bench: $(VENV)/.installed-bench
	@PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

format: $(VENV)/.installed-dev
	@$(BIN)/ruff check --fix --exit-zero --quiet daemon tests
	@$(BIN)/ruff format daemon tests

clean:
	rm -rf $(VENV) tests/node/node_modules .state .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find daemon tests -name __pycache__ -prune -exec rm -rf {} +

# A stamp is older than pyproject.toml when the dependencies may have changed.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'rekeyd needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; exit 1; }
	@echo 'making $(VENV)'
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo 'the venv module is missing: apt-get install python3-venv' >&2; exit 1; }
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.created
	@echo 'installing rekeyd into $(VENV)'
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.created
	@echo 'installing rekeyd and its development tools into $(VENV)'
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	@echo 'installing the servers to compare with into $(VENV)'
	@$(PIP) --editable '.[bench]' || echo 'the package index has not all of them: what is missing is left out'
	@touch $@
