"""Request bodies: read within a size and a time."""

import asyncio
from typing import Final

from aiohttp import StreamReader, web

_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/")


class BodyError(Exception):
    """Refuse the request: its body cannot be had."""


class BodyTooLargeError(BodyError):
    """Answer 413."""


class BodyTooSlowError(BodyError):
    """Answer 408."""


class BodyBrokenError(BodyError):
    """Answer 400: the framing of the body is broken."""


class DisconnectedError(BodyError):
    """Nobody is there to be answered."""


class UnsupportedMediaTypeError(BodyError):
    """Answer 415: an encoding, or a form; the message says which."""


class UnknownExpectationError(BodyError):
    """Answer 417."""


def check_media_type(request: web.BaseRequest) -> None:
    """
    Refuse what cannot be JSON as it is: an encoded body, a form. Any other type is tried.

    Raises: UnsupportedMediaTypeError.
    """
    headers = request.headers
    encoding = headers.get("Content-Encoding")
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaTypeError("The body has a Content-Encoding; send it plain.")
    content_type = headers.get("Content-Type")
    if content_type is not None and content_type.strip().lower().startswith(_FORMS):
        raise UnsupportedMediaTypeError("The body is a form; send JSON.")


async def read_body(
    request: web.BaseRequest, *, limit_bytes: int, timeout_s: float | None
) -> bytes:
    """
    The whole body, refused as early as its length is known to be too much.

    `timeout_s` is None where a limit of the caller's own runs.

    Raises: the BodyErrors above, except for the media type.
    """
    content: StreamReader = request.content
    if content.is_eof() and content.exception() is None:
        # The usual case: it came with its headers.
        body = content.read_nowait()
        if len(body) > limit_bytes:
            raise BodyTooLargeError
        return body
    if (request.content_length or 0) > limit_bytes:
        raise BodyTooLargeError
    try:
        async with asyncio.timeout(timeout_s):
            await _ask_for_body(request)
            return await _read(content, limit_bytes)
    except TimeoutError:
        raise BodyTooSlowError from None
    except (web.RequestPayloadError, ValueError) as error:
        raise BodyBrokenError from error
    except OSError as error:
        raise DisconnectedError from error


async def _read(content: StreamReader, limit_bytes: int) -> bytes:
    body = bytearray()
    while chunk := await content.readany():
        body += chunk
        if len(body) > limit_bytes:
            raise BodyTooLargeError
    return bytes(body)


async def _ask_for_body(request: web.BaseRequest) -> None:
    """Send `100 Continue` to a client that waits for leave to send (RFC 9110, 10.1.1)."""
    expectation = request.headers.get("Expect")
    if expectation is None or request.version < (1, 1):
        return
    if expectation.strip().lower() != "100-continue":
        raise UnknownExpectationError
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself has not begun
