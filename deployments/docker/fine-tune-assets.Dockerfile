# syntax=docker/dockerfile:1
# Everything but training on Trainium: Dagster's web server, daemon and code location, run pods, and the steps fetch,
# prepare, consolidate, merge and evaluate on CPU. Built from the repository's root by deployments/docker/build.
ARG PYTHON=public.ecr.aws/docker/library/python:3.11-slim-bookworm

FROM ${PYTHON} AS build
# An index with CPU builds of torch keeps several GB of CUDA libraries out of the image.
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/fine-tune
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/fine-tune/bin/pip install --constraint constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY neuron_ops neuron_ops
COPY fine_tune_assets fine_tune_assets
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/fine-tune/bin/pip install --constraint constraints.txt '.[train,s3,ui,k8s]'

FROM ${PYTHON}
COPY --from=build /opt/fine-tune /opt/fine-tune
RUN useradd --uid 10001 --create-home fine-tune \
    && install --directory --owner=fine-tune /opt/dagster/dagster_home
ENV PATH=/opt/fine-tune/bin:$PATH \
    DAGSTER_HOME=/opt/dagster/dagster_home \
    DAGSTER_DISABLE_TELEMETRY=1 \
    HF_HOME=/tmp/huggingface \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1
# A number, because Kubernetes cannot tell from a name whether the user is root.
USER 10001:10001
WORKDIR /home/fine-tune
