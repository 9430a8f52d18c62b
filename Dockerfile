# artgen on Ray's image, for kuberay/rayjob.yaml and any other cluster of containers.
#   docker build -t ghcr.io/OWNER/artgen:0.1 . && docker push ghcr.io/OWNER/artgen:0.1
# Its torch wants an NVIDIA driver of 580 or later on the machines with GPUs.
# Not built by this project so far: its machines have no container engine.
FROM rayproject/ray:2.60.0-py312-gpu

# Only what is installed goes in: tests, benchmarks and local runs stay out (.dockerignore).
COPY --chown=ray:users pyproject.toml README.md LICENSE /home/ray/artgen/
COPY --chown=ray:users artgen /home/ray/artgen/artgen
COPY --chown=ray:users jobs /home/ray/artgen/jobs
RUN pip install --no-cache-dir "/home/ray/artgen[s3,gcs,azure,spandrel]" \
    && python -c "import artgen.cli, torch, s3fs, spandrel"

USER ray
WORKDIR /home/ray
