"""What the ledger is told: whose claims it makes, what the file must be, how long rows live."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from service.domain.effects import Kind
from service.domain.planning import PointsFrom

_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class LedgerConfig:
    """
    `owner` names this process instance: claims of any other are in doubt when the file is opened.

    `tenant`, `points_from` and `universe` are written to a new ledger and compared with an
    existing one; None compares nothing. `publishes_notices`: downstream services are told of
    outcomes and dead letters. `visible_after_s`: how long Splio may take to show an
    effect of each kind. Bodies, records, attempts and dead letters live `retention_s`.
    """

    owner: str
    tenant: str
    visible_after_s: Mapping[Kind, float]
    points_from: PointsFrom | None = None
    universe: str | None = None
    publishes_notices: bool = False
    retention_s: float = 30 * _DAY_S
    orders_retention_s: float = 400 * _DAY_S

    def __post_init__(self) -> None:
        missing = [kind.value for kind in Kind if kind not in self.visible_after_s]
        if missing:
            raise ValueError(f"visible_after_s lacks {', '.join(missing)}")
