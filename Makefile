# Every target works on a fresh machine: it sets up .venv first.
PYTHON := .venv/bin/python
UNIT_ARGS := -q -m "not slow and not ray and not browser"

# Hundreds of processes start in the tests: where the environment forbids caches each would compile torch and Ray anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test long unit lint bench clean

setup: .venv/.done

.venv/.done: pyproject.toml
	@command -v uv >/dev/null || python3 -m pip install --quiet uv
	@test -x $(PYTHON) || uv venv --quiet .venv
	uv pip install --quiet --python $(PYTHON) -e ".[dev]"
	@touch .venv/.done

demo: setup
	$(PYTHON) -m artgen demo

# Two at a time, for half of the suite's time is waiting for other processes; with a thread each, as two with two on two cores
# take ten times as long for the same. Then, alone, what starts a Ray cluster.
test: setup
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not ray and not long"
	$(PYTHON) -m pytest -m "ray and not long"

long: setup
	$(PYTHON) -m pytest -m long

unit: setup
	$(PYTHON) -m pytest $(UNIT_ARGS) tests/unit

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/basedpyright

bench: setup
	$(PYTHON) bench/restore_throughput.py
	$(PYTHON) bench/startup.py
	$(PYTHON) bench/memory.py
	$(PYTHON) bench/ray_engine.py
	$(PYTHON) bench/ray_engine.py --command generate
	$(PYTHON) bench/train.py
	$(PYTHON) bench/png_encode.py
	$(PYTHON) bench/object_storage.py
	$(PYTHON) bench/listing.py
	$(PYTHON) bench/quality.py
	$(PYTHON) bench/generate.py
	$(PYTHON) bench/scale.py
	$(PYTHON) bench/gan.py loop
	$(PYTHON) bench/chaos.py

clean:
	rm -rf .venv demo-output
