"""Any notice that the ledger may write."""

from hypothesis import strategies as st

from service.domain.effects import SETTLED_STATES, EffectKey, Kind
from service.domain.notices import DeadLetterNotice, OutcomeNotice
from service.domain.records import Topic

_MAX_MS = 7_258_118_400_000  # the year 2200
_MAX_NUMBER = 2**53

_texts = st.text(st.characters(codec="utf-8"), max_size=30)
_names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
_keys = _names.map(EffectKey)
_times = st.integers(0, _MAX_MS)

outcomes = st.builds(
    OutcomeNotice,
    effect_key=_keys,
    kind=st.sampled_from(Kind),
    order_id=_names,
    outcome=st.sampled_from(SETTLED_STATES),
    reason=st.none() | _texts,
    points=st.integers(-_MAX_NUMBER, _MAX_NUMBER),
    attempt=st.integers(0, _MAX_NUMBER),
    reference=st.none() | _texts,
    event_id=_texts,
    settled_at_ms=_times,
)
dead_letters = st.builds(
    DeadLetterNotice,
    id=st.integers(1, _MAX_NUMBER),
    kind=st.sampled_from([*Kind, "event"]).map(str),
    reason=_texts,
    effect_key=st.none() | _keys,
    order_id=st.none() | _names,
    event_id=_texts,
    event_type=_texts,
    topic=st.sampled_from(Topic).map(lambda topic: topic.value),
    partition=st.integers(0, 1000),
    offset=st.integers(0, _MAX_NUMBER),
    at_ms=_times,
)
