# The daemon as a container:
#     docker build -t gpu-autoscaler .
#     docker run --rm -v ./queues.yaml:/etc/gpu-autoscaler/queues.yaml:ro -v state:/var/lib/gpu-autoscaler \
#         --env-file secrets.env -p 8080:8080 gpu-autoscaler
# Secrets come as environment variables: config/README.md lists them.
FROM python:3.12-slim AS build
RUN python -m venv /opt/venv
COPY requirements.txt .
RUN /opt/venv/bin/pip install --no-cache-dir --require-hashes -r requirements.txt
# our own code needs no build: the package, and the bootstrap beside its renderer, as in the wheel
COPY src/gpu_autoscaler /opt/venv/lib/python3.12/site-packages/gpu_autoscaler
COPY cloud-init /opt/venv/lib/python3.12/site-packages/gpu_autoscaler/bootstrap/templates

FROM python:3.12-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/gpu-autoscaler --create-home autoscaler
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GPU_AUTOSCALER_CONFIG=/etc/gpu-autoscaler/queues.yaml
USER autoscaler
WORKDIR /var/lib/gpu-autoscaler
EXPOSE 8080
# no shell in front: SIGTERM reaches the daemon itself
ENTRYPOINT ["python", "-m", "gpu_autoscaler"]
CMD ["run"]
