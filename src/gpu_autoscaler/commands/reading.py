"""Where the configuration is read from: a file, or an object in object storage."""

import asyncio
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from gpu_autoscaler.config.document import MAX_FILE_BYTES
from gpu_autoscaler.config.problems import ConfigError, Problem
from gpu_autoscaler.config.secrets import PREFIX, Secrets
from gpu_autoscaler.config.services import StoreConfig
from gpu_autoscaler.config.watch import ConfigWatcher
from gpu_autoscaler.domain.errors import StoreError

if TYPE_CHECKING:
    from gpu_autoscaler.store.s3 import S3Bucket

SCHEME = "s3://"
VARIABLES = {"region": f"{PREFIX}CONFIG_REGION", "endpoint": f"{PREFIX}CONFIG_ENDPOINT"}
"""Like these keys of `store`: what is read cannot say where it is."""


def watcher_at(place: str, env: Mapping[str, str], secrets: Secrets | None) -> ConfigWatcher | None:
    """The configuration at a path, or in the object `s3://bucket/key`.

    None when it is in object storage, to which there is no key. Raises ConfigError.
    """
    if not place.startswith(SCHEME):
        return ConfigWatcher.of_file(Path(place), env)
    settings = _settings(place, env)
    if secrets is None:
        return None
    bucket = bucket_of(settings, secrets)

    async def read() -> bytes:
        try:
            blob = await bucket.get(MAX_FILE_BYTES)
        except StoreError as error:
            raise _refused(place, str(error).removeprefix(f"{bucket.place}: ")) from None
        if blob is None:
            raise _refused(place, "there is no such object; upload the configuration there")
        return blob.content

    # a thread, as some commands need the configuration when their event loop runs already
    with ThreadPoolExecutor(1) as thread:
        content = thread.submit(lambda: asyncio.run(read())).result()
    return ConfigWatcher(place, content, read, env)


def bucket_of(settings: StoreConfig, secrets: Secrets) -> "S3Bucket":
    """The object that these settings name."""
    # loads five megabytes, which a daemon with a file and a directory does without
    from gpu_autoscaler.store.s3 import S3Bucket  # noqa: PLC0415

    return S3Bucket(
        settings.bucket,
        settings.key or "",
        region=settings.region,
        endpoint=settings.endpoint or "",
        access_key=secrets.scaleway_access_key,
        secret_key=secrets.scaleway_secret_key,
    )


def _settings(place: str, env: Mapping[str, str]) -> StoreConfig:
    found = re.fullmatch(r"s3://([^/]+)/(.+)", place)
    if found is None:
        raise _refused(place, "an object is named s3://bucket/key")
    written = {"bucket": found[1], "key": found[2]}
    written |= {field: env[name] for field, name in VARIABLES.items() if env.get(name)}
    try:
        return StoreConfig.model_validate(written)
    except ValidationError as error:
        raise ConfigError(
            Problem("" if field in VARIABLES else place, None, VARIABLES.get(field, ""), said)
            for field, said in (
                (str(each["loc"][0]), each["msg"].removeprefix("Value error, "))
                for each in error.errors()
            )
        ) from None


def _refused(place: str, message: str) -> ConfigError:
    return ConfigError([Problem(place, None, "", message)])
