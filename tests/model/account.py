"""The account: what must have become of every event, counted apart from the ledger."""

from collections import Counter
from dataclasses import dataclass, field

from service.domain.effects import EffectKey, Kind
from service.domain.ledger import Disposition
from service.domain.planning import Plan, PlannedEffect, Reason

Letters = Counter[tuple[str, str | None]]  # how often seen, by reason and order


@dataclass
class Account:
    """
    Takes the plans in the order of the log and says what the ledger must have made of each.

    `events` counts them by that; `letters` are dead letters of events, not of effects.
    """

    taken: int = 0
    known: dict[EffectKey, str] = field(default_factory=dict)
    duplicates: Counter[EffectKey] = field(default_factory=Counter)
    letters: Letters = field(default_factory=Counter)
    events: Counter[Disposition] = field(default_factory=Counter)

    def take(self, plan: Plan) -> set[Disposition]:
        """What may have become of the next event; a dead letter seen before is a repeat."""
        self.taken += 1
        disposition = self._take(plan)
        self.events[disposition] += 1
        if disposition in {Disposition.CONFLICT, Disposition.DEAD_LETTER}:
            return {disposition, Disposition.REPEATED}
        return {disposition}

    def take_replay(self, plan: Plan) -> None:
        """A replay plans what was unknown, as the event itself would."""
        for effect in self._unknown(plan):
            self.known[effect.key] = effect.fingerprint

    def _take(self, plan: Plan) -> Disposition:
        if plan.ignored is not None:
            return Disposition.IGNORED
        if plan.dead_letter is not None:
            self.letters[plan.dead_letter.value, plan.order_key] += 1
            return Disposition.DEAD_LETTER
        known = [effect for effect in plan.effects if effect.key in self.known]
        if any(self.known[effect.key] != effect.fingerprint for effect in known):
            self.letters[Reason.CONFLICT.value, plan.order_key] += 1
            return Disposition.CONFLICT
        self.duplicates.update(effect.key for effect in known)
        unknown = self._unknown(plan)
        for effect in unknown:
            self.known[effect.key] = effect.fingerprint
        return Disposition.PLANNED if unknown else Disposition.REPEATED

    def _unknown(self, plan: Plan) -> list[PlannedEffect]:
        """Who books an order's points was decided when the order was planned first."""
        is_decided = any(
            effect.kind is Kind.ORDER and effect.key in self.known for effect in plan.effects
        )
        return [
            effect
            for effect in plan.effects
            if effect.key not in self.known and not (is_decided and effect.kind is Kind.EARN)
        ]
