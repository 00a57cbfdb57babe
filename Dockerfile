# Passepartout's image. Targets: `gpu` (the default, CUDA) and `cpu`.
#
#   docker build -t passepartout:gpu .            docker build --target cpu -t passepartout:cpu .
#
# Behind a company's mirror pass --build-arg PIP_INDEX_URL=…, PIP_FIND_LINKS=… (a mounted folder of wheels) and
# PIP_CERT=… (a mounted certificate bundle): pip reads them while the image is built, none is kept in it.

# torch.compile and Triton compile while they run: both images keep a C++ compiler, the GPU's also nvcc.
ARG CPU_BASE=debian:bookworm-slim
ARG GPU_BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04

# What decides the installed packages, apart from the code, so that a change of code installs nothing again.
FROM scratch AS manifest
COPY pyproject.toml constraints.txt LICENSE NOTICE passepartout_torch.* /
COPY deploy/install.sh /deploy/

FROM scratch AS source
COPY passepartout.py README.md /
COPY prompts /prompts
COPY server /server
COPY training /training
COPY examples /examples

# --- cpu: Debian, torch's CPU build ------------------------------------------------------------------------
FROM ${CPU_BASE} AS cpu
COPY deploy/image.sh /app/deploy/
RUN /app/deploy/image.sh system
COPY --from=manifest / /app/
ARG PIP_CERT
ARG PIP_FIND_LINKS
ARG PIP_INDEX_URL
RUN /app/deploy/image.sh packages cpu
COPY --from=source / /app/
ENV PATH=/opt/passepartout/bin:$PATH PYTHONUNBUFFERED=1 \
    PASSEPARTOUT_HOME=/ XDG_CACHE_HOME=/cache HF_HOME=/cache/huggingface
USER passepartout
WORKDIR /
VOLUME ["/models", "/tasks", "/runs", "/cache"]
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m --retries=4 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["passepartout"]
CMD ["--help"]

# --- gpu: CUDA ---------------------------------------------------------------------------------------------
FROM ${GPU_BASE} AS gpu
COPY deploy/image.sh /app/deploy/
RUN /app/deploy/image.sh system
COPY --from=manifest / /app/
ARG PIP_CERT
ARG PIP_FIND_LINKS
ARG PIP_INDEX_URL
RUN /app/deploy/image.sh packages gpu
COPY --from=source / /app/
ENV PATH=/opt/passepartout/bin:$PATH PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PASSEPARTOUT_HOME=/ XDG_CACHE_HOME=/cache HF_HOME=/cache/huggingface
USER passepartout
WORKDIR /
VOLUME ["/models", "/tasks", "/runs", "/cache"]
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m --retries=4 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["passepartout"]
CMD ["--help"]
