# Three commands: `make quickstart`, `make test`, `make lint`. Each creates .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

QUICKSTART_CONFIG ?= dino_toy_csla
QUICKSTART_DATA ?= datasets/toy_easy
QUICKSTART_OUTPUT ?= output/quickstart

.PHONY: install quickstart test lint format clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

quickstart: install
	$(BIN)/python -m crossstage.data.toy --output $(QUICKSTART_DATA) --train 1200 --val 200 --seed 0 --preset easy
	$(BIN)/crossstage train --config-file $(QUICKSTART_CONFIG) \
		dataloader.root=$(QUICKSTART_DATA) train.output_dir=$(QUICKSTART_OUTPUT)
	$(BIN)/crossstage predict --config-file $(QUICKSTART_CONFIG) \
		--weights $(QUICKSTART_OUTPUT)/model_final.pth --input '$(QUICKSTART_DATA)/val2017/*.jpg' \
		--output $(QUICKSTART_OUTPUT)/pictures --limit 12

test: install
	$(BIN)/python -m pytest -n 2

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) output datasets .pytest_cache .ruff_cache .mypy_cache
