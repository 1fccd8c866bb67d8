# featcache on an NVIDIA GPU. PyTorch's wheels bring the CUDA libraries; the host needs only the driver and
# the NVIDIA container toolkit.
#
#   docker build -t featcache .
#   docker run --rm --gpus all -v /data:/data -v featcache:/home/featcache/stores featcache \
#       extract --model dinov2_vitl14 --dataset folder --root /data/my_images
#
# Not built or run by this project's CI, which has no container engine and no GPU.
FROM python:3.11-slim

RUN useradd --create-home featcache
WORKDIR /src
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY featcache featcache
COPY cli cli
RUN pip install --no-cache-dir --constraint constraints.txt '.[plots]'

USER featcache
WORKDIR /home/featcache
ENV FEATCACHE_HOME=/home/featcache/stores
RUN mkdir stores
ENTRYPOINT ["featcache"]
CMD ["--help"]
