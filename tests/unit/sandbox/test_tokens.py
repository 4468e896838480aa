from __future__ import annotations

import base64

import orjson

from service.sandbox.tokens import Tokens

SECRET = b"0123456789abcdef"


def test_token_is_good_until_it_expires() -> None:
    tokens = Tokens(SECRET)
    header = f"Bearer {tokens.issue(now=1000.0, lifetime_s=60)}"
    assert tokens.verify(header, now=1059.9)
    assert not tokens.verify(header, now=1060.0)


def test_token_of_another_secret_or_changed_is_refused() -> None:
    token = Tokens(SECRET).issue(now=1000.0, lifetime_s=60)
    head, claims, signature = token.split(".")
    longer = orjson.loads(base64.urlsafe_b64decode(claims + "==")) | {"exp": 9_999_999_999}
    forged = base64.urlsafe_b64encode(orjson.dumps(longer)).rstrip(b"=").decode()
    assert not Tokens(b"another").verify(f"Bearer {token}", now=1001.0)
    assert not Tokens(SECRET).verify(f"Bearer {head}.{forged}.{signature}", now=1001.0)


def test_header_must_be_bearer_with_a_space() -> None:
    tokens = Tokens(SECRET)
    token = tokens.issue(now=1000.0, lifetime_s=60)
    for header in (None, "", token, f"Bearer{token}", f"Basic {token}", "Bearer é.é.é"):
        assert not tokens.verify(header, now=1001.0)


def test_many_tokens_do_not_grow_the_memory_of_verified_ones() -> None:
    tokens = Tokens(SECRET)
    for number in range(3000):
        assert not tokens.verify(f"Bearer {number}", now=1.0)
    assert len(tokens._verified) <= 1024
