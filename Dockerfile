# The daemon as a container; README.md says how to run it ("As a container").
ARG VERSION=0.1.0

FROM python:3.12-slim AS build
COPY requirements.txt /
# a plain directory: the paths in a virtual environment would name Python's version
RUN pip install --no-cache-dir --no-compile --require-hashes --target /app -r /requirements.txt \
    && rm -rf /app/bin
# our own code needs no build: the package, and the bootstrap beside its renderer, as in the wheel
COPY src/gpu_autoscaler /app/gpu_autoscaler
COPY cloud-init /app/gpu_autoscaler/bootstrap/templates
ARG VERSION
WORKDIR /app/clearml_gpu_autoscaler.dist-info
RUN printf 'Metadata-Version: 2.1\nName: clearml-gpu-autoscaler\nVersion: %s\n' "$VERSION" > METADATA
WORKDIR /app/bin
RUN printf '#!/usr/bin/env python\nfrom gpu_autoscaler.cli import main\n\nmain()\n' > gpu-autoscaler \
    && chmod +x gpu-autoscaler
# what cannot be kept at run time would be compiled anew at each start
RUN python -m compileall -q --invalidation-mode unchecked-hash /app

FROM python:3.12-slim
# what the base image installs packages with has no business here
RUN pip uninstall --quiet --yes --root-user-action=ignore pip setuptools wheel \
    && rm -rf "$(python -c 'import ensurepip; print(*ensurepip.__path__)')" \
    && useradd --uid 10001 --home-dir /var/lib/gpu-autoscaler --create-home autoscaler
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    GPU_AUTOSCALER_CONFIG=/etc/gpu-autoscaler/queues.yaml
# the base image brings its library uncompiled; this leaves behind what a start needs of it
RUN python -c 'import gpu_autoscaler.cli, gpu_autoscaler.store.s3, gpu_autoscaler.web.probe'
USER 10001:10001
WORKDIR /var/lib/gpu-autoscaler
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-m", "gpu_autoscaler.web.probe"]
# no shell in front: SIGTERM reaches the daemon itself
ENTRYPOINT ["gpu-autoscaler"]
CMD ["run"]
ARG VERSION
LABEL org.opencontainers.image.title="clearml-gpu-autoscaler" \
      org.opencontainers.image.description="Exactly the Scaleway GPU instances that your ClearML queues need" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION"
