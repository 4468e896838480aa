"""Dispatch: which handler answers which method and path."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final
from urllib.parse import unquote

from aiohttp import web

from service.web.answers import problem

Handler = Callable[[web.BaseRequest, Mapping[str, str]], Awaitable[web.StreamResponse]]

ANY_METHOD: Final = "*"

_NOTHING: Final[Mapping[str, str]] = {}


class Router:
    """
    Finds the handler of a request; templates like `/api/effects/{key}/release` bind segments.

    A known path with another method is 405 with `Allow`, an unknown path 404. A fixed path goes
    before a template that fits too.
    """

    def __init__(self) -> None:
        self._fixed: dict[str, dict[str, Handler]] = {}
        self._templates: list[tuple[tuple[str, ...], dict[str, Handler]]] = []

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Let `handler` answer `method` on `path`; ANY_METHOD is of those without another one."""
        if "{" not in path:
            self._fixed.setdefault(path, {})[method] = handler
            return
        parts = tuple(path.split("/"))
        for known, methods in self._templates:
            if known == parts:
                methods[method] = handler
                return
        self._templates.append((parts, {method: handler}))

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        target = request.raw_path
        methods = self._fixed.get(target)
        if methods is None:
            methods, bound = self._find(request, target)
        else:
            bound = _NOTHING
        if methods is None:
            return problem(404, "not-found", "There is nothing at this path")
        handler = methods.get(request.method) or methods.get(ANY_METHOD)
        if handler is None:
            return method_not_allowed(methods)
        return await handler(request, bound)

    def _find(
        self, request: web.BaseRequest, target: str
    ) -> tuple[dict[str, Handler] | None, Mapping[str, str]]:
        # In absolute form (a proxy's), only the parsed URL has the path.
        path = target.partition("?")[0] if target.startswith("/") else request.rel_url.raw_path
        if methods := self._fixed.get(path):
            return methods, _NOTHING
        segments = path.split("/")
        for parts, methods in self._templates:
            bound = _bind(parts, segments)
            if bound is not None:
                return methods, bound
        return None, _NOTHING


def method_not_allowed(methods: Iterable[str]) -> web.Response:
    """405 for a path that takes these methods."""
    allowed = ", ".join(sorted(methods))
    return problem(
        405,
        "method-not-allowed",
        "This path does not take this method",
        f"It takes {allowed}.",
        headers={"Allow": allowed},
    )


def _bind(parts: tuple[str, ...], segments: list[str]) -> dict[str, str] | None:
    """The values of the template's names, None when it does not fit."""
    if len(parts) != len(segments):
        return None
    bound = {}
    for part, segment in zip(parts, segments, strict=True):
        if not part.startswith("{"):
            if part != segment:
                return None
            continue
        try:
            value = unquote(segment, errors="strict")
        except UnicodeDecodeError:
            return None
        if not value:
            return None
        bound[part[1:-1]] = value
    return bound
