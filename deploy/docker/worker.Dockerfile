# A node: the worker alone, beside whatever your jobs run. As it is, jobs find a shell, Python and coreutils.
#
#   docker build -f deploy/docker/worker.Dockerfile -t kelpie-worker .
#   docker run --read-only --tmpfs /tmp -v node:/var/lib/kelpie -e KELPIE_API_URL=… -e KELPIE_API_KEY_FILE=… kelpie-worker
#
# To put the worker into an image of your own see example.Dockerfile.
ARG BASE=docker.io/library/debian:12.12-slim

FROM ${BASE} AS build
# The base pins the release; within it Debian's security fixes are wanted.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY deploy/docker/build.lock deploy/docker/worker.lock web/node.lock ./
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /build \
    && /build/bin/pip install --require-hashes -r build.lock -r node.lock \
    && python3 -m venv --without-pip /opt/kelpie \
    && /build/bin/pip --python /opt/kelpie/bin/python install --require-hashes --only-binary :all: -r worker.lock
COPY LICENSE README.md pyproject.toml ./
COPY app app
COPY workers workers
COPY web web
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && /build/bin/pip --python /opt/kelpie/bin/python install --no-deps --no-index /dist/*.whl \
    && /opt/kelpie/bin/python -m compileall -q /opt/kelpie/lib \
    && mkdir /opt/kelpie/dist && cp /dist/*.whl worker.lock /opt/kelpie/dist

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log \
    && useradd --uid 10001 --no-create-home --home-dir /var/lib/kelpie --shell /usr/sbin/nologin kelpie \
    && install -d -o kelpie -g kelpie /var/lib/kelpie \
    && ln -s /opt/kelpie/bin/kelpie /usr/local/bin/kelpie
COPY --from=build /opt/kelpie /opt/kelpie
# The worker's own Python packages are not on PATH: `python` means your jobs' Python.
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/kelpie
VOLUME /var/lib/kelpie
# The worker writes its state file when it begins to lease, and goes on writing it.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["test", "-s", "/var/lib/kelpie/kelpie-state.json"]
ENTRYPOINT ["/usr/bin/tini", "--", "kelpie", "worker"]
