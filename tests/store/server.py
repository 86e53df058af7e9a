"""A real S3-compatible server on this machine, with conditional writes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from moto.server import ThreadedMotoServer

REGION = "eu-west-1"  # the server knows only Amazon's
BUCKET = "memory"


@contextmanager
def bucket_server() -> Iterator[str]:
    """Its address; there is no bucket yet."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        running.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """For all tests of a module that imports it together with `endpoint`."""
    with bucket_server() as url:
        yield url


@pytest.fixture
def endpoint(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server with an empty bucket, in an environment that means another service."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of another account")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    make_bucket(server)
    return server


def make_bucket(server: str) -> None:
    """An empty one, whatever was there before."""
    httpx.post(f"{server}/moto-api/reset").raise_for_status()
    where = f"<LocationConstraint>{REGION}</LocationConstraint>"
    body = f"<CreateBucketConfiguration>{where}</CreateBucketConfiguration>"
    httpx.put(f"{server}/{BUCKET}", content=body).raise_for_status()


def upload(server: str, key: str, content: str | None) -> None:
    """Put an object into the bucket, or take it away."""
    anybody = {"Authorization": f"AWS4-HMAC-SHA256 Credential=x/20260101/{REGION}/s3/aws4_request"}
    method = "DELETE" if content is None else "PUT"
    httpx.request(
        method, f"{server}/{BUCKET}/{key}", content=content, headers=anybody
    ).raise_for_status()
