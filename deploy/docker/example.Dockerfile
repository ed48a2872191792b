# The worker in an image that others made: here PyTorch's; any with Python 3.11 or later does.
#
#   docker build -f deploy/docker/worker.Dockerfile -t kelpie-worker:0.1.0 .
#   docker build -f deploy/docker/example.Dockerfile -t my-simulation .
#
# The worker has a virtual environment of its own: what the image's Python has installed stays as it is.
ARG WORKER=kelpie-worker:0.1.0
ARG BASE=docker.io/pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime

FROM ${WORKER} AS worker

FROM ${BASE}
COPY --from=worker /opt/kelpie/dist /opt/kelpie/dist
RUN python3 -m venv /opt/kelpie/venv \
    && /opt/kelpie/venv/bin/pip install --no-cache-dir --require-hashes -r /opt/kelpie/dist/worker.lock \
    && /opt/kelpie/venv/bin/pip install --no-cache-dir --no-deps --no-index /opt/kelpie/dist/*.whl \
    && ln -s /opt/kelpie/venv/bin/kelpie /usr/local/bin/kelpie \
    && install -d -m 1777 /var/lib/kelpie
# A name that the image has, or a number: jobs need no root.
USER 10001:10001
WORKDIR /var/lib/kelpie
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["test", "-s", "/var/lib/kelpie/kelpie-state.json"]
# As process 1 the worker reaps what commands leave behind.
ENTRYPOINT ["kelpie", "worker"]
