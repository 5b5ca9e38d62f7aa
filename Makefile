# The commands of the project. `make demo` and `make test` need cargo, a C compiler, make and a CPython >= 3.11
# with its headers; everything else is installed into virtual environments beside this file.
#
#   make demo                        build, install, run the six programs of the tutorial
#   make test                        everything that must pass
#   make fuzz                        the fuzz targets, for some seconds each
#   make test-browser                the chat example in headless Chromium, which is installed
#   make test-stdlib                 CPython's own tests of what is patched, patched; SET=quick for those of a few seconds
#   make test-clients                database drivers, message queues, gunicorn, celery, locust ... with real servers
#   make shim                        a wheel named gevent that stands for this one: see README.md
#   PYTHON=python3.13 make test      the same on another interpreter

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ifeq ($(PYTHON_VERSION),)
$(error $(PYTHON) does not run: name a CPython >= 3.11 by PYTHON=...)
endif
VENV ?= .venv-$(PYTHON_VERSION)
REAL_VENV ?= .venv-real-$(PYTHON_VERSION)
CLIENTS_VENV ?= .venv-clients-$(PYTHON_VERSION)
REAL_GEVENT := gevent==26.9.0
PYTEST_ARGS ?=

bin := $(VENV)/bin
real_bin := $(REAL_VENV)/bin
clients_bin := $(CLIENTS_VENV)/bin
wheels := target/wheels-$(PYTHON_VERSION)

# PyO3 asks this interpreter for its version and headers.
export PYO3_PYTHON := $(abspath $(bin))/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test check-rust check-source test-python install stubtest test-real test-greenrust test-programs
.PHONY: check-types test-browser test-clients test-stdlib fuzz shim clean

help:
	@sed -n '/^#   make/s/^#   //p; /^#   PYTHON/s/^#   //p' Makefile

demo: install
	$(bin)/python scripts/demo.py

test: check-rust check-source check-types test-python
	@echo "make test: passed on CPython $(PYTHON_VERSION)"

# -- once for all interpreters ----------------------------------------------------------------------------

check-rust: $(VENV)/.tools
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test -p greenrust
	scripts/check_no_python.sh

check-source: $(VENV)/.tools
	$(bin)/ruff check .
	$(bin)/python scripts/check_directions.py

# The annotations, as the two type checkers understand them in programs. The examples of databases need packages that only
# `make test-clients` installs.
typed_examples := $(filter-out examples/databases, $(wildcard examples/*))
check-types: install
	$(PYTHON) scripts/list_requirements.py types > $(VENV)/requirements-types.txt
	$(bin)/python -m pip install --quiet -r $(VENV)/requirements-types.txt
	$(bin)/python -m mypy --config-file= --strict tests/typing
	$(bin)/python -m pyright --pythonpath $(bin)/python tests/typing $(typed_examples)
	@# The examples teach gevent, without annotations of their own.
	find $(typed_examples) -name '*.py' -print0 | xargs -0 -n 1 $(bin)/python -m mypy --config-file= --strict \
	    --allow-untyped-defs --allow-untyped-calls --allow-incomplete-defs

# CPython's own tests under gevent.monkey; tests/expectations.toml has what may fail.
SET ?= all
test-stdlib: install
	$(bin)/python scripts/run_stdlib_tests.py --set $(SET)

# Each target of fuzz/ for some seconds; `scripts/fuzz --seconds 3600 TARGET` goes on for longer.
fuzz:
	scripts/fuzz --seconds 10

# -- for each interpreter ---------------------------------------------------------------------------------

# The real gevent comes first: what fails there is a wrong test.
test-python: test-real stubtest test-greenrust

test-real: $(REAL_VENV)/.ready test-programs
	$(real_bin)/python -m pytest --implementation=gevent $(PYTEST_ARGS)

stubtest: install
	cd $(VENV) && bin/python -m mypy.stubtest gevent --concise --ignore-disjoint-bases \
	    --mypy-config-file $(CURDIR)/pyproject.toml --allowlist $(CURDIR)/tests/stubtest_allowlist.txt

test-greenrust: install test-programs
	$(bin)/python -m pytest --implementation=greenrust $(PYTEST_ARGS)

# The real servers that tests start.
test-programs:
	scripts/install-test-programs

# examples/chat in headless Chromium.
test-browser: install
	scripts/install-test-programs tests/browser/programs.txt
	$(PYTHON) scripts/list_requirements.py browser > $(VENV)/requirements-browser.txt
	$(bin)/python -m pip install --quiet -r $(VENV)/requirements-browser.txt
	$(bin)/python -m pytest --implementation=greenrust tests/browser $(PYTEST_ARGS)

# Real clients of real servers, in an environment of their own, where pip installs what requires gevent.
test-clients: install shim
	scripts/install-test-programs tests/clients/programs.txt
	test -x $(clients_bin)/python || $(PYTHON) -m venv $(CLIENTS_VENV)
	$(PYTHON) scripts/list_requirements.py dependencies clients > $(CLIENTS_VENV)/requirements.txt
	echo 'pytest-timeout>=2.3' >> $(CLIENTS_VENV)/requirements.txt
	$(clients_bin)/python -m pip install --quiet --force-reinstall --no-deps $(wheels)/greenrust-*.whl target/shim/gevent-*.whl
	$(clients_bin)/python -m pip install --quiet -r $(CLIENTS_VENV)/requirements.txt
	$(clients_bin)/python -m pytest --implementation=greenrust tests/clients $(PYTEST_ARGS)

shim:
	rm -rf target/shim
	$(PYTHON) scripts/build_shim.py target/shim

# The wheel that users get, installed as they install it.
install: $(VENV)/.tools
	rm -rf $(wheels)
	$(bin)/maturin build --release --interpreter $(bin)/python --out $(wheels)
	$(bin)/python -m pip install --quiet --force-reinstall --no-deps $(wheels)/greenrust-*.whl

$(VENV)/.tools: pyproject.toml scripts/list_requirements.py
	$(PYTHON) scripts/check_interpreter.py
	$(PYTHON) -m venv $(VENV)
	$(PYTHON) scripts/list_requirements.py dependencies monitor test tools > $(VENV)/requirements.txt
	$(bin)/python -m pip install --quiet -r $(VENV)/requirements.txt
	touch $@

$(REAL_VENV)/.ready: pyproject.toml scripts/list_requirements.py Makefile
	$(PYTHON) -m venv $(REAL_VENV)
	$(PYTHON) scripts/list_requirements.py monitor test > $(REAL_VENV)/requirements.txt
	$(real_bin)/python -m pip install --quiet $(REAL_GEVENT) -r $(REAL_VENV)/requirements.txt
	touch $@

clean:
	rm -rf .venv-* target
