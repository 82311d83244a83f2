# syntax=docker/dockerfile:1
# The steps that use Trainium, compile and train, on AWS's own image: compiler, runtime and torch stay as they are there.
# Not run on Trainium. Built from the repository's root by deployments/docker/build.
#
# A tag can be moved. Before production, look up its digest once and pass it: --build-arg NEURON=…@sha256:…
ARG NEURON=public.ecr.aws/neuron/pytorch-training-neuronx:2.8.0-neuronx-py311-sdk2.26.1-ubuntu22.04

FROM ${NEURON}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY deployments/docker/neuron-constraints.txt pyproject.toml README.md LICENSE ./
COPY neuron_ops neuron_ops
COPY fine_tune_assets fine_tune_assets
# The Neuron SDK's packages and pip's complaints, before and after: a build that changes either fails.
RUN --mount=type=cache,target=/root/.cache/pip \
    describe() { python -m pip freeze | grep -iE '^(torch|torch-xla|torch-neuronx|neuronx.*|libneuronxla)=='; \
                 python -m pip check || true; } \
    && describe >/tmp/before \
    && python -m pip install --constraint neuron-constraints.txt '.[neuron,train,s3,k8s]' \
    && describe >/tmp/after \
    && diff /tmp/before /tmp/after \
    && rm -r /src/* /tmp/before /tmp/after
RUN useradd --uid 10001 --create-home fine-tune \
    && install --directory --owner=fine-tune /opt/dagster/dagster_home
ENV DAGSTER_HOME=/opt/dagster/dagster_home \
    DAGSTER_DISABLE_TELEMETRY=1 \
    HF_HOME=/tmp/huggingface \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1
# AWS's entry point prints a telemetry notice and starts its arguments; pods name the whole command themselves.
ENTRYPOINT []
USER 10001:10001
WORKDIR /home/fine-tune
