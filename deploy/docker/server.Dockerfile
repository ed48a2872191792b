# The API and the platform: one image, two commands. Logging in through OpenID Connect is in it ([oidc]).
#
#   docker build -f deploy/docker/server.Dockerfile -t kelpie-server .
#   docker run --read-only --tmpfs /tmp -e KELPIE_REDIS_URL=… -e KELPIE_ADMIN_KEY_FILE=… kelpie-server
#   docker run --read-only --tmpfs /tmp -e KELPIE_REDIS_URL=… kelpie-server platform
#
# Any Debian 12 will do as the base: --build-arg BASE=registry.example.org/debian-hardened:12
ARG BASE=docker.io/library/debian:12.12-slim

FROM ${BASE} AS build
# The base pins the release; within it Debian's security fixes are wanted.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY deploy/docker/build.lock deploy/docker/server.lock web/node.lock ./
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /build \
    && /build/bin/pip install --require-hashes -r build.lock -r node.lock \
    && python3 -m venv --without-pip /opt/kelpie \
    && /build/bin/pip --python /opt/kelpie/bin/python install --require-hashes --only-binary :all: -r server.lock
COPY LICENSE README.md pyproject.toml ./
COPY app app
COPY workers workers
COPY web web
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && /build/bin/pip --python /opt/kelpie/bin/python install --no-deps --no-index /dist/*.whl \
    && /opt/kelpie/bin/python -m compileall -q /opt/kelpie/lib

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log \
    && useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin kelpie
COPY --from=build /opt/kelpie /opt/kelpie
COPY deploy/docker/healthy.py /opt/kelpie/healthy.py
ENV PATH=/opt/kelpie/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=40s --retries=3 \
    CMD ["python", "/opt/kelpie/healthy.py"]
ENTRYPOINT ["/usr/bin/tini", "--", "kelpie"]
CMD ["api", "--bind", "0.0.0.0:8080"]
