"""What refunds in parts give back of a capture, whatever their amounts and their order."""

from hypothesis import given
from hypothesis import strategies as st

from service.domain.effects import EffectKey
from service.ledger.holds import Hold


def make_hold(*, amount: int, points: int) -> Hold:
    return Hold(
        id=1,
        effect_key=EffectKey("main:capture:club:k1"),
        program="club",
        transaction_key="k1",
        order_key="1",
        card="2171707962088",
        currency="EUR",
        amount=amount,
        refunded=0,
        points=points,
        given_back=0,
        shrunk=0,
        shown=0,
        revision=0,
        debits="[]",
        received_at=0,
        ended_at=None,
        ended_by=None,
    )


@given(parts=st.lists(st.integers(1, 10**18), min_size=1, max_size=12), points=st.integers(1))
def test_parts_give_back_what_was_captured_and_never_more(parts: list[int], points: int) -> None:
    hold = make_hold(amount=sum(parts), points=points)
    for part in parts:
        shared = hold.share(part)
        assert shared >= 0
        hold = hold.refund(part, shared, is_unsent=True)
        assert hold.given_back <= points
    assert (hold.given_back, hold.held) == (points, 0)


@given(parts=st.lists(st.integers(1, 10**18), min_size=1, max_size=12))
def test_parts_of_points_are_themselves(parts: list[int]) -> None:
    hold = make_hold(amount=sum(parts), points=sum(parts))
    for part in parts:
        assert hold.share(part) == part
        hold = hold.refund(part, part, is_unsent=False)


@given(amount=st.integers(2, 10**9), points=st.integers(1, 10**9), data=st.data())
def test_a_part_is_its_share_to_the_nearest_point(
    amount: int, points: int, data: st.DataObject
) -> None:
    part = data.draw(st.integers(1, amount - 1))
    shared = make_hold(amount=amount, points=points).share(part)
    assert abs(shared * amount - points * part) * 2 <= amount
