"""The account: what must have become of every event, counted apart from the ledger."""

from collections import Counter
from dataclasses import dataclass, field

from service.domain.effects import EffectKey, Kind, contradicts
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

    def take_replay(self, effect: PlannedEffect) -> None:
        """A replay may plan what was unknown, and nothing else anew."""
        self.known.setdefault(effect.key, effect.fingerprint)

    def _take(self, plan: Plan) -> Disposition:
        if plan.ignored is not None:
            return Disposition.IGNORED
        if plan.dead_letter is not None:
            self.letters[plan.dead_letter.value, plan.order_key] += 1
            return Disposition.DEAD_LETTER
        known = [effect for effect in plan.effects if effect.key in self.known]
        # Who books an order's points was decided when the order was planned first.
        is_decided = any(effect.kind is Kind.ORDER for effect in known)
        if any(contradicts(self.known[effect.key], effect.fingerprint) for effect in known):
            self.letters[Reason.CONFLICT.value, plan.order_key] += 1
            return Disposition.CONFLICT
        is_repeat = True
        for effect in plan.effects:
            if effect.key in self.known:
                self.duplicates[effect.key] += 1
            elif not (is_decided and effect.kind is Kind.EARN):
                self.known[effect.key] = effect.fingerprint
                is_repeat = False
        return Disposition.REPEATED if is_repeat else Disposition.PLANNED
