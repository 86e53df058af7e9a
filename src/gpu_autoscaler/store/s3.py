"""One object in S3-compatible object storage; the only module that imports its client."""

import atexit
import re
import threading
from copy import copy
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from gpu_autoscaler.domain.errors import StoreError
from gpu_autoscaler.store.bucket import Blob, Conflict

if TYPE_CHECKING:  # these exist only for type checkers
    from obstore import PutMode
    from obstore.store import ClientConfig, RetryConfig, S3Credential

REQUEST_TIMEOUT = timedelta(seconds=4)
"""Of one request for a few kilobytes."""

CONNECT_TIMEOUT = timedelta(seconds=2)

_RETRY: "RetryConfig" = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=4),
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=1),
        "base": 2,
    },
}
"""A busy service (503) should not cost a cycle. A retried write whose first attempt counted comes
back as a conflict with ourselves, which the lease knows how to tell; more than a few seconds of
retries would only use up the lease."""

EXIT_GRACE_SECONDS = 0.2
"""The client's threads come back to the interpreter for a moment after each reply; one that has
ended by then aborts the process. So its end waits for the reply to the farewell to be put away."""

atexit.register(threading.Event().wait, EXIT_GRACE_SECONDS)

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")


class S3Bucket:
    """A `Bucket` for one key. Plain http is used only when the endpoint says so."""

    def __init__(
        self,
        bucket: str,
        key: str,
        *,
        region: str,
        endpoint: str,
        access_key: str,
        secret_key: str,
    ) -> None:
        def credentials() -> "S3Credential":
            return {
                "access_key_id": access_key,
                "secret_access_key": secret_key,
                "token": None,
                "expires_at": None,
            }

        client: ClientConfig = {
            "timeout": REQUEST_TIMEOUT,
            "connect_timeout": CONNECT_TIMEOUT,
            "allow_http": endpoint.startswith("http://"),
        }
        # all that AWS_* variables of the environment would otherwise decide is said here
        self._store = S3Store(
            bucket,
            region=region,
            endpoint=endpoint,
            aws_endpoint_url_s3=endpoint,
            virtual_hosted_style_request=False,
            skip_signature=False,
            conditional_put="etag",
            credential_provider=credentials,
            client_options=client,
            retry_config=_RETRY,
        )
        self._bucket, self.key = bucket, key
        self.place = f"s3://{bucket}/{key}"

    def at(self, key: str) -> "S3Bucket":
        """Another object of the same bucket, through the same client: each has its own pool."""
        other = copy(self)
        other.key, other.place = key, f"s3://{self._bucket}/{key}"
        return other

    async def get(self, at_most: int | None = None) -> Blob | None:
        """See `Bucket`. What has more than `at_most` bytes is not downloaded but refused."""
        try:
            found = await obstore.get_async(self._store, self.key)
            if at_most is not None and found.meta["size"] > at_most:
                raise StoreError(f"{self.place}: is larger than {at_most} bytes")
            content = bytes(await found.bytes_async())
        except StoreError:
            raise
        except (BaseError, OSError) as error:
            if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
                return None
            raise self._failure("read", error) from None
        version = found.meta["e_tag"]
        if version is None:
            raise StoreError(f"{self.place}: cannot be read (the reply has no ETag)")
        return Blob(content, version, found.meta["last_modified"])

    async def put(self, content: bytes, replaces: str | None) -> str:
        """See `Bucket`."""
        mode: PutMode = "create" if replaces is None else {"e_tag": replaces}
        version = await self._write(self.key, content, mode)
        if version is None:
            raise StoreError(f"{self.place}: may not be written (the reply has no ETag)")
        return version

    async def set_aside(self, content: bytes, suffix: str) -> str:
        """See `Bucket`."""
        await self._write(self.key + suffix, content, "overwrite")
        return self.place + suffix

    async def service_time(self) -> datetime:
        """See `Bucket`: a tiny object is written beside the other, and its time read back."""
        probe = self.key + ".probe"
        await self._write(probe, b"", "overwrite")
        try:
            found = await obstore.head_async(self._store, probe)
        except (BaseError, OSError) as error:
            raise self._failure("read", error) from None
        return found["last_modified"]

    async def _write(self, key: str, content: bytes, mode: "PutMode") -> str | None:
        try:
            result = await obstore.put_async(
                self._store, key, content, mode=mode, use_multipart=False
            )
        except (AlreadyExistsError, PreconditionError) as error:
            if "NoSuchBucket" in str(error):
                raise self._failure("written", error) from None
            raise Conflict(f"{self.place}: changed by somebody else in the meantime") from None
        except (BaseError, OSError) as error:
            raise self._failure("written", error) from None
        return result["e_tag"]

    def _failure(self, done: str, error: Exception) -> StoreError:
        """In our own words: the reply, which the client's hold, may repeat keys and signatures."""
        text = str(error)
        status, code = _STATUS.search(text), _CODE.search(text)
        found = [f"HTTP {status[1]}" if status else "no connection, or no answer that makes sense"]
        found += [code[1]] if code else []
        hint = ""
        if code and code[1] == "NoSuchBucket":
            hint = "; make the bucket first, or name another"
        elif status and status[1] in ("401", "403"):
            hint = "; the Scaleway key needs to read and write objects of this bucket"
        return StoreError(f"{self.place}: cannot be {done} ({', '.join(found)}){hint}")
