PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test quick test-server coverage check docs audit bench soak fuzz clean

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/python -m examples.demo --out data/demo

test: setup
	$(BIN)/python -m pytest -m "not soak" -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

quick: setup
	$(BIN)/python -m pytest -m "not (slow or soak or server or gpu or samples)" -n logical --maxprocesses 4 --dist loadfile

coverage: setup
	$(BIN)/python -m pytest -m "not soak" -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		--cov --cov-report term:skip-covered --cov-report html:build/coverage

test-server: setup
	$(BIN)/python -m pytest -m server

check: setup docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy deploy/job.py
	$(BIN)/deptry .
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/check.yml
	$(BIN)/zizmor --offline --no-progress --quiet .github/workflows

docs: setup
	$(BIN)/python -m docs.generate
	$(BIN)/zensical build --config-file build/docs/mkdocs.yml --strict

audit: setup
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

bench: setup
	$(BIN)/python -m benchmarks.store
	$(BIN)/python -m benchmarks.ingest
	$(BIN)/python -m benchmarks.evaluate figures
	$(BIN)/python -m benchmarks.evaluate neighbours

soak: setup
	$(BIN)/python -m pytest -m soak

fuzz: setup
	$(BIN)/python -m pytest -m soak -rP tests/test_fuzz.py

clean:
	rm -rf $(VENV) data/demo
