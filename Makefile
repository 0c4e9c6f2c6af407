# Everything runs in .venv, which `make env` makes; no other set-up is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := PYTHONPATH= $(BIN)

.PHONY: env demo test test-slow check bench docs montage format lock clean

env: $(VENV)/.made

# uv shares files between environments; byte code is compiled once, since a first start without it takes half a minute.
$(VENV)/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode -c constraints.txt -e '.[dev,peers]'
	touch $@

demo: env
	$(RUN)/lesioncam demo -o runs/demo --overwrite

check: env
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

# Two processes of one thread each; a file stays whole, so that what its tests share is made once.
test: check
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: env
	$(RUN)/python -m pytest -m slow

bench: env
	$(RUN)/python -m benchmarks

# The documentation site, in build/site; a warning is an error.
docs: env
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet -c constraints.txt -e '.[docs]'
	rm -rf docs/api
	$(RUN)/python -m sphinx --quiet --fail-on-warning --keep-going --jobs auto docs build/site

# Every map method on images of the demo's run, as one picture to look at.
montage: env
	test -e runs/demo/model || $(RUN)/lesioncam demo -o runs/demo --overwrite
	$(RUN)/python -m benchmarks.montage runs/demo docs/images/montage.png

format: env
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

# Versions of everything, without registry addresses.
lock: env
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip freeze --exclude-editable | grep -v '^uv==' > constraints.txt

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
