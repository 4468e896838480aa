"""What granting a reward and using one check alike, in the words of their pages."""

from __future__ import annotations

from collections.abc import Mapping

from service.sandbox.answers import (
    Refused,
    answer_flat_problem,
    answer_object_problem,
)
from service.sandbox.catalogue import stored
from service.sandbox.checks import refuse_bad_date, type_problems
from service.sandbox.universe import Call


def refuse_wrong_fields(call: Call, types: Mapping[str, str]) -> None:
    """Raises: Refused for a value of the wrong type, or a date in another form."""
    if type_problems(call.body, types):
        raise Refused(answer_flat_problem(400, "", "wrong_field_type", "something went wrong"))
    for name in types:
        if name.endswith("_date") or name.startswith("validity_"):
            refuse_bad_date(call.body, name, call.universe.hours)


def refuse_unknown_store(call: Call, store_id: str | None) -> None:
    """Raises: Refused when a store is named that does not exist."""
    if store_id and stored(call.db, "stores", store_id) is None:
        text = f'extid "{store_id}" not found in splio3_ecommerce.universe_stores'
        raise Refused(answer_object_problem(404, "not_found", text))


def refuse_bad_use(burned: str, *, earned: str, expires: str | None) -> None:
    """
    The same second is neither before nor after; Splio does not say.

    Raises: Refused for a use before the grant or after its end.
    """
    if burned < earned:
        text = f"burn date should be after earned date {earned}"
    elif expires is not None and burned > expires:
        text = f"burn date should be before expiration date {expires}"
    else:
        return
    raise Refused(answer_flat_problem(400, "burned_date", "inconsistent_dates", text))
