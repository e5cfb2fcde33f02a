# make quickstart   environment, boutique, train, evaluate, export (under 6 minutes on 2 cores)
# make test         environment and the whole test suite
# make test-quick   the tests that take seconds
# make lint         ruff
# On a machine with an NVIDIA GPU: make EXTRAS=test,cuda ...

VENV ?= .venv
EXTRAS ?= test
PY = $(VENV)/bin/python

.PHONY: help env quickstart test test-quick lint clean

help:
	@sed -n '1,5s/^# //p' Makefile

env: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml tools/setup_env.sh
	@sh tools/setup_env.sh $(VENV) $(EXTRAS)

quickstart: env
	$(PY) -m fir_tf.datasets boutique --out=data/boutique
	$(PY) train.py --flagfile=quickstart.flags
	$(PY) evaluate.py --run=runs/quickstart
	$(PY) export.py --run=runs/quickstart

test: env
	$(PY) -m pytest

test-quick: env
	$(PY) -m pytest -m "not slow"

lint: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean:
	rm -rf $(VENV) build dist *.egg-info
