# `make demo` and `make test` do all their own set-up; the second time it is instant.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint clean
.DEFAULT_GOAL := test

demo: $(READY)
	$(VENV)/bin/medldm demo --out out/demo

test: $(READY)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m "not slow"

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "medldm needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1). Give another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing medldm into $(VENV); the first time takes some minutes."
	@$(VENV)/bin/python -m pip install -qq -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) out .pytest_cache .ruff_cache .mypy_cache
