# The two commands of the README, and what they need. PYTHON is any Python from 3.11 on.
PYTHON ?= python3
CONFIG ?= configs/digits.py
WORKDIR ?= runs/$(subst :,_,$(subst .py,,$(notdir $(CONFIG))))
BIN := .venv/bin
MINUTES ?= 10
SEED ?= 0
TABLE ?= runs/gpu.md
# Where pyenv is, its commands run only with PYENV_VERSION; elsewhere that means nothing.
NEWEST ?= $(shell for name in python3.13 python3.12; do \
  PYENV_VERSION=$${name#python} $$name -c '' 2>&- && echo $$name && break; done)
NEWEST_TESTS := tests/test_jax_internals.py tests/process/test_backend.py \
  tests/process/test_coordinator.py tests/process/test_projects.py tests/perf tests/test_step.py \
  tests/test_config.py tests/test_train.py tests/rundir/test_checkpoint.py \
  tests/rundir/test_stored_run.py tests/objectives tests/study/test_population.py \
  tests/test_launch.py::test_the_golden_first_ten_losses tests/explain/test_layers.py \
  tests/explain/test_lrp.py tests/evals/test_chunks.py tests/evals/test_attacks.py \
  tests/test_projects_examples.py::test_two_values_are_trained_as_one_program \
  tests/study/test_engine.py::test_one_program_rounds_differently_and_nothing_else \
  tests/drills/test_resume.py::test_every_step_leads_to_the_next_bit_for_bit \
  tests/test_sharding.py::test_each_device_holds_its_part_of_the_state
export TFDS_DATA_DIR ?= $(CURDIR)/data

.PHONY: train studies gpu docs test test-docs test-drills soak test-zoo test-cluster test-reference newest test-newest \
  lint clean

train: .venv/installed
	@$(BIN)/python -m launch.train --config=$(CONFIG) --workdir=$(WORKDIR) $(FLAGS)

# The ablations of configs/studies/ that take no data but the digits; each leaves a page.
studies: .venv/installed
	@for name in digits_augment digits_lr_wd digits_activation; do \
	  $(BIN)/python -m launch.study --study=configs/studies/$$name.py --workdir=runs/$$name || exit; \
	done

# The table of docs/guides/gpu.md. A machine with a GPU may have no network: it takes the packages
# that are there.
gpu:
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu --minutes=$(MINUTES) --out=$(TABLE) $(FLAGS)

# The site, in build/docs/: open build/docs/index.html. It executes the tutorials whose results are not
# stored, in the environment that has torch, TensorFlow and Keras for one of them.
docs: .venv-reference/installed
	@.venv-reference/bin/python -m sphinx --quiet --fail-on-warning --jobs 2 \
	  --doctree-dir .cache/docs/doctrees docs build/docs $(FLAGS)
	@echo 'make docs: build/docs/index.html'

test: lint
	@$(BIN)/python -m pytest $(PYTEST) || { code=$$?; \
	  [ $$code -ne 5 ] || echo 'make test: no test was collected' >&2; exit $$code; }

# Every family of models through every check: as long as all else together.
test-zoo: .venv/installed-test
	@$(BIN)/python -m pytest --dist loadgroup tests/zoo $(PYTEST)

# The site: every tutorial executed, links, search, console, and how it looks on a phone; the examples
# of CONTRIBUTING.md.
test-docs: docs
	@.venv-reference/bin/python -m pytest -n 0 tests/site $(PYTEST)

# Faults and several processes, through real ones: killed, frozen, starved, stopped.
test-drills: .venv/installed-test
	@$(BIN)/python -m pytest tests/drills $(PYTEST)

# The same drills with ever new seeds until the time is up, and a table of what they found.
soak: .venv/installed-test
	@$(BIN)/python -m pytest -n 0 tests/drills --minutes=$(MINUTES) --seed=$(SEED) $(PYTEST)

# On a Slurm cluster that it starts on this machine and ends again; says so where Debian's slurm-wlm
# and munge are missing.
test-cluster: .venv/installed-test
	@$(BIN)/python -m pytest -n 0 tests/cluster $(PYTEST)

# Against the packages that define what ours must equal; they take minutes to install, so they have
# an environment of their own, and imgjax is tested without them.
test-reference: .venv-reference/installed
	@.venv-reference/bin/python -m pytest --dist worksteal tests/reference $(PYTEST)

# The newest Python, JAX and Flax that setup.cfg takes, in an environment of their own, through the
# tests of what they may change. NEWEST=python3.12 chooses a Python.
test-newest: newest
	@$(if $(NEWEST),.venv-newest/$(NEWEST)/bin/python -m pytest $(NEWEST_TESTS) $(PYTEST))

newest:
	@$(if $(NEWEST),echo 'make $@: $(NEWEST) in .venv-newest/$(NEWEST)' && \
	  $(MAKE) -s --no-print-directory .venv-newest/$(NEWEST)/installed,\
	  echo 'make $@: neither python3.13 nor python3.12 runs here, so nothing is tested')

lint: .venv/installed-test
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary

.venv/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("imgjax takes Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .[test]
	touch $@

# torchvision asks for a torch with CUDA, its models and transforms do without; jax2onnx for an older
# Orbax, which exporting does without; the packages of the last line for an older NumPy, for
# opencv-python, in whose place opencv-python-headless is here, and for what only their plots need.
.venv-reference/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv-reference
	.venv-reference/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-reference/bin/pip install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0
	.venv-reference/bin/pip install --quiet --disable-pip-version-check --editable .[test,reference,docs]
	.venv-reference/bin/pip install --quiet --disable-pip-version-check --no-deps 'jax2onnx>=0.17,<0.18'
	.venv-reference/bin/pip install --quiet --disable-pip-version-check --no-deps \
	  imagecorruptions-imaug==1.1.5 pyautoattack==0.2.0 quantus==0.6.0 cachetools torchcam==0.4.1
	touch $@

.venv-newest/%/installed: setup.cfg pyproject.toml
	PYENV_VERSION=$(patsubst python%,%,$*) $* -m venv .venv-newest/$*
	.venv-newest/$*/bin/pip install --quiet --disable-pip-version-check --editable .[test]
	touch $@

clean:
	rm -rf .venv .venv-reference .venv-newest build *.egg-info
