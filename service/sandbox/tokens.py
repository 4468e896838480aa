"""Signed tokens with an expiry, as POST /authenticate gives them out."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import Any

import orjson

_HEADER = {"typ": "JWT", "alg": "HS256"}
# Tokens already verified, so that a request costs one look-up; forgotten all at once when full.
_REMEMBERED = 1024


class Tokens:
    """
    Makes and verifies JSON Web Tokens with the claims of the sample that Splio prints.

    Splio signs with RS256; the sandbox with HS256, since a client reads the expiry without
    verifying the signature.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._verified: dict[str, float] = {}

    def issue(self, *, now: float, lifetime_s: float) -> str:
        """A token that `verify` accepts until `lifetime_s` from now."""
        expires = now + lifetime_s
        claims = {
            "iss": "sandbox",
            "sub": "user",
            "aud": "api.client",
            "is_api": True,
            "iat": int(now),
            # Whole seconds as in Splio's sample; fractions only where tests ask for them.
            "exp": int(expires) if float(lifetime_s).is_integer() else expires,
            "jti": secrets.token_hex(16),
            "name": "sandbox",
            "locale": "en",
            "user": {"id": 1, "universe": "sandbox"},
        }
        signed = f"{_encode(_HEADER)}.{_encode(claims)}"
        return f"{signed}.{self._sign(signed)}"

    def verify(self, authorization: str | None, *, now: float) -> bool:
        """True when the header is `Bearer` with a token of ours that has not expired."""
        if authorization is None or not authorization.startswith("Bearer "):
            return False
        token = authorization[7:]
        expires = self._verified.get(token)
        if expires is None:
            expires = self._expiry(token)
            if len(self._verified) >= _REMEMBERED:
                self._verified.clear()
            self._verified[token] = expires
        return now < expires

    def _expiry(self, token: str) -> float:
        signed, _, signature = token.rpartition(".")
        expected = self._sign(signed)
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            return 0.0
        return float(_decode(signed.partition(".")[2]).get("exp", 0.0))

    def _sign(self, text: str) -> str:
        return _base64(hmac.digest(self._secret, text.encode(), hashlib.sha256))


def _encode(document: Any) -> str:
    return _base64(orjson.dumps(document))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> dict[str, Any]:
    try:
        document = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, orjson.JSONDecodeError):
        return {}
    return document if isinstance(document, dict) else {}
