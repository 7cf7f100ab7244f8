# Nightcast as an image: worker, Prefect server and MLflow server are the same image with other commands
# (deployments/docker-compose.yaml). `make image-steps` runs the same two scripts without a container engine.
#
#   docker build -t nightcast .
#   docker run --rm -v nightcast-home:/home/nightcast/home nightcast nightcast run wells --preset ci
#
# torch comes from wherever pip is told to look; point PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS at a CPU build to save
# several GB of CUDA libraries (docs/deploying.md).

FROM python:3.11-slim-bookworm AS build
ARG PIP_EXTRA_INDEX_URL=""
ARG PIP_FIND_LINKS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY . .
RUN bash deployments/install_wheel.sh /opt/venv

FROM python:3.11-slim-bookworm
# lightgbm needs the OpenMP runtime; nothing else is missing from the slim image.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 nightcast \
    && mkdir /home/nightcast/home \
    && chown nightcast:nightcast /home/nightcast/home
COPY --from=build /opt/venv /opt/venv
COPY deployments/smoke_test.sh /opt/nightcast/smoke_test.sh
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONUTF8=1 \
    NIGHTCAST_HOME=/home/nightcast/home \
    DO_NOT_TRACK=true \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    GX_ANALYTICS_ENABLED=false
USER nightcast
WORKDIR /home/nightcast
RUN bash /opt/nightcast/smoke_test.sh
VOLUME /home/nightcast/home
HEALTHCHECK --interval=1m --timeout=30s --start-period=2m CMD ["nightcast", "doctor", "--quick"]
CMD ["nightcast", "--help"]
