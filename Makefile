# make quickstart   environment, boutique, train, evaluate, export (under 6 minutes on 2 cores)
# make test         environment and the whole test suite
# make test-quick   the tests that take seconds
# make test-addons  the core of it with TensorFlow 2.15, Keras 2 and tensorflow-addons
# make lint         style, types, documentation
# make docs         the documentation site, in build/docs
# make reproduce TABLE=1|2|fig3|fig4 DATA=<folder>   the paper's runs, and its table beside ours
# On a machine with an NVIDIA GPU: make EXTRAS=test,cuda ...

VENV ?= .venv
EXTRAS ?= test
VENV_ADDONS ?= .venv-addons
PY = $(VENV)/bin/python
# Tests run side by side; each of these processes may take 3 GB.
WORKERS ?= 2
TESTS = -m pytest -n $(WORKERS) --dist worksteal

.PHONY: help env quickstart test test-quick test-addons lint docs reproduce clean

help:
	@sed -n '1,8s/^# //p' Makefile

env: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml tools/setup_env.sh
	@sh tools/setup_env.sh $(VENV) $(EXTRAS)

quickstart: env
	$(PY) -m fir_tf.datasets boutique --out=data/boutique
	$(PY) train.py --flagfile=quickstart.flags
	$(PY) evaluate.py --run=runs/quickstart
	$(PY) export.py --run=runs/quickstart

test: env
	$(PY) $(TESTS)

test-quick: env
	$(PY) $(TESTS) -m "not slow"

# What the versions of TensorFlow and Keras can change, then the scripts as a user runs them. Each
# environment reads what the other one writes, if that is there.
ADDONS_TESTS = addons keras_versions architecture losses metrics config plans fir training
ADDONS_SLOW = tests/test_backbones.py \
	tests/test_scripts.py::test_the_three_scripts[inshop] \
	tests/test_scripts.py::test_metrics_follow_from_what_the_servable_answers[inshop] \
	tests/test_index.py::test_the_commands \
	tests/test_input.py::test_a_batch_is_a_function_of_seed_and_step[all]

test-addons: $(VENV_ADDONS)/.installed
	FIR_TF_OTHER_PYTHON="$$([ ! -x $(PY) ] || echo $(abspath $(PY)))" \
		$(VENV_ADDONS)/bin/python $(TESTS) -m "not slow" $(ADDONS_TESTS:%=tests/test_%.py)
	$(VENV_ADDONS)/bin/python $(TESTS) $(ADDONS_SLOW:%='%')

$(VENV_ADDONS)/.installed: setup.cfg pyproject.toml tools/setup_env.sh
	@sh tools/setup_env.sh $(VENV_ADDONS) addons,test-addons

lint: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	@$(MAKE) --no-print-directory docs

docs: $(VENV)/.docs
	$(PY) -m sphinx -W --keep-going -q -b html docs build/docs

$(VENV)/.docs: $(VENV)/.installed
	$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	@touch $@

# BACKBONES, LOSSES and SEEDS (with commas) narrow or widen the grid; FLAGS are train.py's.
reproduce: env
	$(PY) tools/reproduce.py --table=$(TABLE) --data_dir=$(DATA) \
		$(if $(BACKBONES),--backbones=$(BACKBONES)) $(if $(LOSSES),--losses=$(LOSSES)) \
		$(if $(SEEDS),--seeds=$(SEEDS)) -- $(FLAGS)

clean:
	rm -rf $(VENV) $(VENV_ADDONS) build dist *.egg-info
