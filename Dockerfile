# docker build --tag vsr .                             PyTorch for CPUs, from its own index: small
# docker build --tag vsr --build-arg TORCH=cuda .      PyPI's, which brings CUDA's libraries; the host brings the driver
# docker run --rm --publish 8888:8888 vsr              JupyterLab (add --gpus all); its address is printed
# docker run --rm --volume vsr-results:/vsr/results vsr make reproduce
ARG PYTHON=3.12
FROM python:${PYTHON}-slim
ARG TORCH=cpu
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --shell /bin/bash vsr && mkdir /vsr && chown vsr /vsr
USER vsr
WORKDIR /vsr
COPY --chown=vsr . .
# the same pins for both: 2.13.0+cpu satisfies torch==2.13.0, and pip prefers it where it sees it
RUN case "$TORCH" in \
        cpu) export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu ;; \
        cuda) ;; \
        *) echo "TORCH=$TORCH: cpu or cuda" && exit 1 ;; \
    esac && PIP_NO_CACHE_DIR=1 make .venv/.installed && mkdir -p data results figures
ENV PATH=/vsr/.venv/bin:$PATH
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "notebooks/00_start_here.ipynb"]
