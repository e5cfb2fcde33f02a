# make quickstart     environment, boutique, train, evaluate, export (5 processor minutes behind it)
# make test           environment and the whole test suite but the nightly tests
# make test-quick     the tests that take seconds
# make test-addons    the core of it with TensorFlow 2.15, Keras 2 and tensorflow-addons
# make test-nightly   everything, on every kernel, beside torch: hours (docs/testing.md)
# make lint           style, types, documentation
# make docs           the documentation site, in build/docs
# make reproduce TABLE=1|2|fig3|fig4 DATA=<folder>   the paper's runs, and its table beside ours
# On a machine with an NVIDIA GPU: make EXTRAS=cuda ...

VENV ?= .venv
VENV_ADDONS ?= .venv-addons
VENV_ORACLE ?= .venv-oracle
# Extras of setup.cfg, with commas, beside those that a target needs.
EXTRAS ?=
PY = $(VENV)/bin/python
# Tests run side by side; each of these processes may take 3 GB.
WORKERS ?= 2
QUICK = not slow and not nightly
# The suite on the kernels of other processors: oneDNN off, and without what came after AVX2, SSE4.1.
KERNELS = off avx2 sse41
# What is skipped must be listed on that page: else the run fails.
CHECKED = -m pytest --listed-skips=docs/testing.md
TESTS = $(CHECKED) -n $(WORKERS) --dist worksteal --durations=25

# $(call env,test docs) brings what is missing in $(VENV).
env = @sh tools/setup_env.sh $(VENV) $(EXTRAS) $(1)

.PHONY: help env env-addons chromium quickstart test test-quick test-addons test-addons-all \
	test-nightly test-all test-onednn $(KERNELS:%=test-onednn-%) test-oracle lint docs reproduce clean

help:
	@sed -n '/^$$/q;s/^# //p' Makefile

env:
	$(call env)

quickstart: env
	$(PY) -m fir_tf.datasets boutique --out=data/boutique
	$(PY) train.py --flagfile=quickstart.flags
	$(PY) evaluate.py --run=runs/quickstart
	$(PY) export.py --run=runs/quickstart

test:
	$(call env,test)
	$(PY) $(TESTS)

test-quick:
	$(call env,test)
	$(PY) $(TESTS) -m "$(QUICK)"

# What the versions of TensorFlow and Keras can change, then the scripts as a user runs them. Each
# environment reads what the other one writes, if that is there.
ADDONS_TESTS = addons keras_losses keras_versions architecture losses metrics config samplers fir training \
	backbones
# $(call scripts,NAME) are the scripts on a benchmark; the nightly ones train a larger network.
scripts = tests/test_scripts.py::test_the_three_scripts[$(1)] \
	tests/test_scripts.py::test_metrics_follow_from_what_the_servable_answers[$(1)]
ADDONS_SLOW = \
	$(call scripts,consumer2shop) \
	tests/test_index.py::test_the_commands \
	tests/test_input.py::test_a_batch_is_a_function_of_seed_and_step[all]
SCRIPTS_INSHOP = $(call scripts,inshop)

env-addons:
	@sh tools/setup_env.sh $(VENV_ADDONS) addons test-addons

test-addons: env-addons
	FIR_TF_OTHER_PYTHON="$$([ ! -x $(PY) ] || echo $(abspath $(PY)))" \
		$(VENV_ADDONS)/bin/python $(TESTS) -m "$(QUICK) or addons" \
		$(ADDONS_SLOW:%='%') $(ADDONS_TESTS:%=tests/test_%.py)

test-addons-all: test-addons
	$(VENV_ADDONS)/bin/python $(TESTS) tests/test_backbones.py $(SCRIPTS_INSHOP:%='%')

# One that fails does not keep the others from being run.
test-nightly:
	@$(MAKE) --keep-going test-all $(KERNELS:%=test-onednn-%) test-oracle test-addons-all

test-all:
	$(call env,test)
	$(PY) $(TESTS) -m ""

test-onednn-off: export TF_ENABLE_ONEDNN_OPTS = 0
test-onednn-avx2: export ONEDNN_MAX_CPU_ISA = AVX2
test-onednn-sse41: export ONEDNN_MAX_CPU_ISA = SSE41

test-onednn: $(KERNELS:%=test-onednn-%)

$(KERNELS:%=test-onednn-%):
	$(call env,test)
	$(PY) $(TESTS)

test-oracle:
	@sh tools/setup_env.sh $(VENV_ORACLE) oracle test-core
	$(VENV_ORACLE)/bin/python $(TESTS) -m "" tests/test_pretrained.py tests/test_metric_learning.py \
		tests/test_recipes.py

# The browser of the search page's tests.
chromium:
	@sh tools/setup_chromium.sh

lint:
	$(call env,test docs)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	@$(MAKE) --no-print-directory docs

docs:
	$(call env,docs)
	$(PY) -m sphinx -W --keep-going -q -b html docs build/docs

# BACKBONES, LOSSES and SEEDS (with commas) narrow or widen the grid, JOBS of its runs are made side by
# side; FLAGS are train.py's.
reproduce: env
	$(PY) tools/reproduce.py --table=$(TABLE) --data_dir=$(DATA) \
		$(if $(BACKBONES),--backbones=$(BACKBONES)) $(if $(LOSSES),--losses=$(LOSSES)) \
		$(if $(SEEDS),--seeds=$(SEEDS)) $(if $(JOBS),--jobs=$(JOBS)) -- $(FLAGS)

clean:
	rm -rf $(VENV) $(VENV_ADDONS) $(VENV_ORACLE) build dist *.egg-info
