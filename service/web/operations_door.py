"""The operations door: health, readiness, metrics and the operator's API."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from service.operations import Operations
from service.web.answers import bytes_answer, json_answer
from service.web.asyncapi import asyncapi_document
from service.web.authentication import BasicAuthentication
from service.web.dispatch import Router
from service.web.openapi.operations import operations_document
from service.web.operations_api import OperationsApi, add_shapes
from service.web.public_door import answer_alive, document_handler
from service.web.shape_keeping import ShapeKeeper

OPERATOR: Final = "operator"  # the one user who may change things

_RETRY_AFTER_S: Final = "5"


def operations_router(
    operations: Operations | None,
    *,
    metrics: CollectorRegistry,
    authentication: BasicAuthentication | None,
    not_ready: Callable[[], Sequence[str]],
    degraded: Callable[[], Sequence[str]],
    shapes: ShapeKeeper,
) -> Router:
    """
    Everything that the operations listener answers.

    Args:
        operations: None in a role that has no ledger; then there is no `/api/…` but shapes.
        authentication: of the user `operator`; None when no password is set, and then nothing
            can be changed.
        not_ready: the reasons why the process cannot take and process now; none: it can.
        degraded: what is away while it works on; told, and no reason to take it out of service.
        shapes: of SCAYLE's requests.
    """

    async def answer_ready(request: web.BaseRequest, _: Mapping[str, str]) -> web.Response:
        reasons = list(not_ready())
        if not reasons:
            return json_answer({"ready": True, "reasons": [], "degraded": list(degraded())})
        answer = json_answer(
            {"ready": False, "reasons": reasons, "degraded": list(degraded())}, status=503
        )
        answer.headers["Retry-After"] = _RETRY_AFTER_S
        return answer

    async def answer_metrics(request: web.BaseRequest, _: Mapping[str, str]) -> web.Response:
        return bytes_answer(generate_latest(metrics), content_type=CONTENT_TYPE_LATEST)

    router = Router()
    router.add("GET", "/healthz", answer_alive)
    router.add("GET", "/readyz", answer_ready)
    router.add("GET", "/metrics", answer_metrics)
    router.add("GET", "/openapi.json", document_handler(operations_document()))
    router.add("GET", "/asyncapi.json", document_handler(asyncapi_document()))
    if operations is not None:
        api = OperationsApi(operations, authentication=authentication, operator=OPERATOR)
        api.add_to(router)
    add_shapes(router, shapes)
    return router
