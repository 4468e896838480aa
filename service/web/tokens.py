"""Access tokens: which of SCAYLE Checkout's calls may pass."""

from collections.abc import Iterator, Sequence
from typing import Final

from aiohttp import web

from service.domain.checkout import CallOperation
from service.web.authentication import (
    KnownSecrets,
    LoginThrottle,
    refuse_missing,
    refuse_wrong,
)

ANY_OPERATION: Final = "*"
"""In place of an operation: a token for every one."""

_CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}
_SCHEME: Final = "bearer"


class TokenAuthentication:
    """
    Checks access tokens, each of one operation or of all.

    A token is taken as `Authorization: Bearer <token>`, as `Authorization: <token>` and as
    `X-Access-Token: <token>`, since SCAYLE documents neither header nor scheme (contract section
    B.2). The right token always passes. A wrong one, that of another operation included, is
    answered 401, and 429 when an address sends too many; a request without one is no failed login.

    Args:
        tokens: pairs of an operation (or ANY_OPERATION) and a token; an operation may have several.
    """

    def __init__(self, tokens: Sequence[tuple[str, str]], *, throttle: LoginThrottle) -> None:
        self._known = {
            operation: KnownSecrets(
                token.encode() for of, token in tokens if of in (operation, ANY_OPERATION)
            )
            for operation in CallOperation
        }
        self._throttle = throttle

    def refusal(self, request: web.BaseRequest, operation: CallOperation) -> web.Response | None:
        """The answer to a call that may not pass, None when it may. Reads headers only."""
        known = self._known[operation]
        was_shown = is_known = False
        for token in _shown(request):
            was_shown = True
            # Lone surrogates, which stand for bytes that are no text, are in no token of ours.
            is_known |= known.holds(token.encode(errors="surrogatepass"))
        if is_known:
            return None
        if not was_shown:
            return refuse_missing(_CHALLENGE)
        return refuse_wrong(request, throttle=self._throttle, challenge=_CHALLENGE)


def _shown(request: web.BaseRequest) -> Iterator[str]:
    """What may be a token, in every form; nothing for headers without text."""
    headers = request.headers
    bare = headers.get("Authorization", "").strip()
    if bare:
        yield bare
        scheme, _, token = bare.partition(" ")
        if scheme.lower() == _SCHEME and (token := token.strip()):
            yield token
    if other := headers.get("X-Access-Token", "").strip():
        yield other
