"""Who is calling the emulated ClearML server: API keys, tokens, the cookie of the login."""

import base64
import hmac
import json
from datetime import timedelta

from gpu_autoscaler.emulator.clearml_model import ClearmlModel
from gpu_autoscaler.emulator.clearml_records import User
from gpu_autoscaler.emulator.clearml_wire import Json, RefusedError, whole_number

API_VERSION = "2.34"
SERVER_VERSION = "2.3.0"
TOKEN_SECONDS = 30 * 86_400
LONGEST_TOKEN_SECONDS = 365 * 86_400
COOKIE = "clearml_token_basic"


class Doorkeeper:
    """Issues tokens and recognises callers by them."""

    def __init__(self, model: ClearmlModel) -> None:
        self._model = model
        self._signing_key = model.ids.hex(32).encode()
        self._revoked: set[str] = set()
        self._verified: dict[str, Json] = {}
        """What is in the tokens whose signature was checked."""

    def issue(self, user: User, expiration: object = None) -> str:
        """A signed token (a JWT) that lives `expiration` seconds, 30 days unless given."""
        seconds = TOKEN_SECONDS if expiration is None else whole_number(expiration)
        if seconds > LONGEST_TOKEN_SECONDS:
            limit = f"'{seconds}' is bigger than maximum ('{LONGEST_TOKEN_SECONDS}')"
            problem = f"error for field 'expiration_sec': {limit}.."
            raise RefusedError(400, 12, f"Validation error ({problem})")
        now = self._model.timeline.now()
        payload = {
            "identity": {"user": user.id, "company": self._model.company, "role": "user"},
            "exp": int((now + timedelta(seconds=seconds)).timestamp()),
            "iat": int(now.timestamp()),
            "session_id": self._model.ids.hex(32),
            "auth_type": "Bearer",
            "env": "<unknown>",
            "api_version": API_VERSION,
            "server_version": SERVER_VERSION,
            "server_build": "",
            "feature_set": "basic",
        }
        signed = f"{_encode({'alg': 'HS256', 'typ': 'JWT'})}.{_encode(payload)}"
        return f"{signed}.{self._signature(signed)}"

    def revoke(self, authorization: str | None) -> None:
        """What a logout does to the token it came with."""
        if authorization and authorization.startswith("Bearer "):
            self._revoked.add(authorization.removeprefix("Bearer "))

    def user_of(self, authorization: str | None, cookie: str | None) -> User:
        """The caller; 401 with ClearML's own sub-codes for everybody else."""
        if not authorization:
            if not cookie:
                raise RefusedError(401, 20, "Unauthorized (missing credentials)")
            return self._by_token(cookie)
        scheme, _, credentials = authorization.partition(" ")
        if scheme == "Basic":
            return self._by_keys(credentials)
        if scheme == "Bearer":
            return self._by_token(credentials)
        raise RefusedError(401, 10, "Unauthorized (bad authentication header type)")

    def _by_keys(self, credentials: str) -> User:
        try:
            access, _, secret = base64.b64decode(credentials, validate=True).decode().partition(":")
        except ValueError:
            access = secret = ""
        user = self._model.users.get(access)
        if user is None or user.secret_key != secret:
            problem = "failed to locate provided credentials"
            raise RefusedError(401, 22, f"Unauthorized (invalid credentials) ({problem})")
        return user

    def _by_token(self, token: str) -> User:
        payload = self._verified.get(token) or self._verify(token)
        if payload["exp"] <= self._model.timeline.now().timestamp():
            raise _bad_token("Signature has expired")
        if token in self._revoked:
            raise RefusedError(401, 30, "Invalid token (revoked token)")
        who = payload["identity"]["user"]
        return next(user for user in self._model.users.values() if user.id == who)

    def _verify(self, token: str) -> Json:
        signed, _, signature = token.rpartition(".")
        if signed.count(".") != 1:
            raise _bad_token("Not enough segments")
        if not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            raise _bad_token("Signature verification failed")
        payload: Json = json.loads(_decode(signed.split(".")[1]))
        self._verified[token] = payload
        return payload

    def _signature(self, signed: str) -> str:
        return _base64(hmac.digest(self._signing_key, signed.encode(), "sha256"))


def _bad_token(reason: str) -> RefusedError:
    return RefusedError(401, 30, f"Invalid token (invalid jwt token): reason={reason}")


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _encode(part: Json) -> str:
    return _base64(json.dumps(part, separators=(",", ":")).encode())


def _decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
