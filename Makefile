# The two commands are `make reproduce` and `make test`; both build what they need first.
PYTHON ?= $(firstword $(foreach name,python3.11 python3,$(shell $(name) -c 'import sys; sys.version_info >= (3, 11) and print(sys.executable)' 2>/dev/null)))
SHELL := bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help reproduce test smoke gpu-check verify report lint clean inputs

help:       ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

reproduce: inputs  ## build .venv, fetch data and models, run every stage that is stale
	python -m publish reproduce
	python -m publish readme

test: inputs       ## build .venv, fetch data and models, run the tests
	OMP_NUM_THREADS=1 python -m pytest -n auto --dist loadfile

smoke: inputs      ## one clip, one edit, one peer and one notebook in a folder of their own: does it run here?
	python -m publish smoke

gpu-check: inputs  ## nine minutes of a GPU: parity, precisions, a clip, speed and memory at full size
	python -m benchmarks.gpu_check

verify: inputs     ## say whether this clone makes what it shows, one line a check
	python -m publish verify

report: inputs     ## write reports/ again from the results
	dvc repro report
	python -m publish readme

lint: .venv/built  ## check the code's style and that imports point one way (`make test` does, too)
	ruff check .
	lint-imports

clean:             ## remove .venv, results, all pieces and the DVC cache (reports/ stays)
	rm -rf .venv .pieces .state results .dvc/cache .dvc/tmp .pytest_cache .ruff_cache .import_linter_cache

inputs: .venv/built
	python -m publish lock
	dvc pull -q data/clips.dvc data/sprites.dvc models/miniature.dvc

.venv/built: requirements.lock
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or later is needed: install it, or give make PYTHON=/its/path" >&2; exit 2; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q -r requirements.lock
	.venv/bin/pip install -q --no-deps -e .
	touch $@
