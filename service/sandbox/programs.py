"""The loyalty programs of the sandbox: three, so that each documented refusal has its case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.sandbox.answers import Answer, answer_json, answer_problem
from service.sandbox.members import FIRST_PROGRAM
from service.sandbox.universe import Call, Universe

PARTNER_PROGRAM = 2
DRAFT_PROGRAM = 3
_CREATED_AT = "2021-12-01 09:00:00"


@dataclass(frozen=True, slots=True)
class Program:
    """What differs between the programs."""

    name: str
    status: str
    generates_codes: bool


PROGRAMS = {
    FIRST_PROGRAM: Program("Club", "running", True),
    PARTNER_PROGRAM: Program("Partner club", "running", False),
    DRAFT_PROGRAM: Program("Next club", "draft", True),
}


def list_programs(call: Call) -> Answer:
    """GET /loyalty/programs"""
    elements = [
        program_document(call.universe, number) for number in sorted(PROGRAMS, reverse=True)
    ]
    return answer_json(
        200,
        {
            "count_element": len(elements),
            "current_page": 1,
            "per_page": 50,
            "sort": {"id": "DESC"},
            "elements": elements,
        },
    )


def read_program(call: Call) -> Answer:
    """GET /loyalty/programs/{id}"""
    numbers = {str(number): number for number in PROGRAMS}
    number = numbers.get(call.parts[0])
    if number is None:
        text = "Program not found for given identifier."
        return answer_problem(404, "id", "wrong_value", text)
    return answer_json(200, program_document(call.universe, number))


def program_document(universe: Universe, number: int) -> dict[str, Any]:
    """A program as Splio shows it; it tells no currency, and not what the ratio is used for."""
    program = PROGRAMS[number]
    return {
        "id": number,
        "name": program.name,
        "description": "",
        "type": "simple",
        "status": program.status,
        "start_at": universe.program_start,
        "end_at": None,
        "created_at": _CREATED_AT,
        "updated_at": _CREATED_AT,
        "cascading": False,
        "downgrade_nb_rank": None,
        "max_q_points": None,
        "max_nq_points": None,
        "default_q_points_validity_id_period": 1,
        "default_q_points_validity_days": None,
        "default_q_points_holding_days": 0,
        "default_nq_points_validity_id_period": None,
        "default_nq_points_validity_days": 365,
        "default_nq_points_holding_days": universe.holding_days,
        "rounding_type": "round",
        "default_points_to_amount_ratio": 10,
        "auto_generated_card_code": program.generates_codes,
        "automatic_subscription": number == FIRST_PROGRAM and universe.automatic_subscription,
        "q_refund_mode": "cancel",
        "nq_refund_mode": "refund",
    }
