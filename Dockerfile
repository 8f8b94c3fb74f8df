# One image for every program of ours: `mlflow server`, `feast`, `ai-hub`; docker-compose.yml says which.
ARG PYTHON_IMAGE=python:3.11.14-slim-trixie

FROM ${PYTHON_IMAGE} AS build
ARG UV_VERSION=0.13.9
ENV UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never VIRTUAL_ENV=/opt/ai-hub
RUN pip install --no-cache-dir uv==${UV_VERSION} && uv venv ${VIRTUAL_ENV}
WORKDIR /build
# Dependencies change seldom, so they are a layer of their own.
COPY requirements.runtime.lock ./
RUN uv pip install --no-cache --compile-bytecode --require-hashes --requirement requirements.runtime.lock
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY sql ./sql
COPY feature_repo ./feature_repo
COPY policy ./policy
COPY mlflow_plugins ./mlflow_plugins
COPY feast_plugins ./feast_plugins
COPY ai_hub ./ai_hub
RUN uv build --no-cache --wheel --build-constraints requirements.lock --require-hashes --out-dir dist \
    && uv pip install --no-cache --compile-bytecode --no-deps dist/*.whl

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="AI Hub" \
      org.opencontainers.image.description="Feature store and model registry for multi-tenant energy management" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# LightGBM's wheel leaves OpenMP to the system; `ai-hub backup` needs the client programs of the server's version.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 postgresql-client-17 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin ai-hub \
    && install --directory --owner=ai-hub --group=ai-hub /app /app/exports
COPY --from=build /opt/ai-hub /opt/ai-hub
ENV PATH=/opt/ai-hub/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet \
    MPLCONFIGDIR=/tmp/matplotlib
# The installed definitions under short paths; mount a folder here to run edited ones.
RUN for name in feature_repo policy; do \
      ln -s "$(python -c "from ai_hub import paths; print(paths.resource('$name'))")" "/app/$name" || exit 1; \
    done
USER 10001
WORKDIR /app
CMD ["ai-hub", "--help"]
