# TorchBeast in a container (docs/container.md):
#
#   docker build -t torchbeast .
#   docker run -it -v runs:/home/beast/logs torchbeast train impala --env PongNoFrameskip-v4
FROM python:3.11-slim AS torchbeast

# The index of the torch build to install, for the CPU or a version of CUDA; empty: pip's own.
ARG TORCH_INDEX=
ARG EXTRAS=atari,polybeast,ray,tensorboard,plot,video
# Whose files the volume holds and who may read the token of compose.yaml.
ARG USER_ID=1000

WORKDIR /opt/torchbeast
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY torchbeast torchbeast
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" -c constraints.txt torch; \
    fi; \
    pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"

RUN useradd --uid "$USER_ID" --create-home beast && install -d -o beast -g beast /home/beast/logs
USER beast
WORKDIR /home/beast
VOLUME /home/beast/logs
ENTRYPOINT ["torchbeast"]
CMD ["--help"]

# For deploy/kuberay.yaml: KubeRay asks Ray's dashboard, by wget, whether a pod is well.
FROM torchbeast AS kuberay
USER root
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir -c /opt/torchbeast/constraints.txt "ray[default]"
USER beast

FROM torchbeast
