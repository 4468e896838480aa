"""The public door: what SCAYLE and a load balancer may call."""

from collections.abc import Mapping

from aiohttp import web

from service.web.answers import bytes_answer, json_answer
from service.web.dispatch import Handler, Router
from service.web.loyalty import LoyaltyDoor
from service.web.openapi.loyalty import loyalty_paths
from service.web.openapi.public import public_document
from service.web.webhooks import WebhookDoor


def public_router(webhooks: WebhookDoor, loyalty: LoyaltyDoor | None = None) -> Router:
    """`POST /webhooks/scayle`, `/loyalty/…`, `GET /healthz`, `GET /openapi.json`."""
    router = Router()
    router.add("POST", "/webhooks/scayle", webhooks)
    router.add("GET", "/healthz", answer_alive)
    paths = None
    if loyalty is not None:
        loyalty.add_to(router)
        paths = loyalty_paths(invalid_status=loyalty.invalid_status)
    router.add("GET", "/openapi.json", document_handler(public_document(paths)))
    return router


async def answer_alive(request: web.BaseRequest, _: Mapping[str, str]) -> web.Response:
    """The process runs and its event loop turns; says nothing about readiness."""
    return json_answer({"alive": True})


def document_handler(document: bytes) -> Handler:
    """Answers with a document that describes a door or the topics."""

    async def answer(request: web.BaseRequest, _: Mapping[str, str]) -> web.Response:
        return bytes_answer(document, content_type="application/json")

    return answer
