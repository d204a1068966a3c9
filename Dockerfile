# The project with the tested versions, on CUDA, as an unprivileged user.
#   docker build -t finetune .
#   docker run --gpus all -v "$PWD":/work finetune train model=qwen3-0.6b tuning=qlora data.train=my.jsonl
FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04

RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-venv python3-dev gcc git \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/finetune \
 && useradd --create-home --uid 10001 finetune \
 && install --directory --owner finetune /work

WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY finetune finetune
COPY configs configs
COPY recipes recipes
RUN /opt/finetune/bin/pip install --no-cache-dir -c constraints.txt .

ENV PATH=/opt/finetune/bin:$PATH PYTHONUNBUFFERED=1
USER finetune
WORKDIR /work
ENTRYPOINT ["finetune"]
