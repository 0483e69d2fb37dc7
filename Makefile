# The two commands of the README, and what they need. PYTHON is any Python from 3.11 on.
PYTHON ?= python3
CONFIG ?= configs/digits.py
WORKDIR ?= runs/$(subst :,_,$(subst .py,,$(notdir $(CONFIG))))
BIN := .venv/bin
export TFDS_DATA_DIR ?= $(CURDIR)/data

.PHONY: train test lint clean

train: .venv/installed
	@$(BIN)/python -m launch.train --config=$(CONFIG) --workdir=$(WORKDIR) $(FLAGS)

test: lint
	@$(BIN)/python -m pytest $(PYTEST) || { code=$$?; \
	  [ $$code -ne 5 ] || echo 'make test: no test was collected' >&2; exit $$code; }

lint: .venv/installed-test
	$(BIN)/ruff check --quiet .

.venv/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("imgjax takes Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .[test]
	touch $@

clean:
	rm -rf .venv build *.egg-info
