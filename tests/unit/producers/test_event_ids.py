"""Event ids are UUIDs of version 7 that grow strictly."""

from uuid import UUID

from producers.event_ids import EventIds
from tests.fakes.clock import START_MS, FakeClock


def test_ids_are_version_7_and_carry_the_time() -> None:
    event_id = UUID(EventIds(FakeClock()).next())
    assert (event_id.version, event_id.variant) == (7, "specified in RFC 4122")
    assert event_id.int >> 80 == START_MS


def test_ids_grow_while_the_clock_stands_and_after_it_moved() -> None:
    clock = FakeClock()
    ids = EventIds(clock)
    made = [ids.next() for _ in range(10_000)]
    clock.advance(1)
    made += [ids.next() for _ in range(3)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert all(UUID(event_id).version == 7 for event_id in made)


def test_two_processes_in_one_millisecond_do_not_share_ids() -> None:
    clock = FakeClock()
    one, other = EventIds(clock), EventIds(clock)
    assert {one.next() for _ in range(100)}.isdisjoint(other.next() for _ in range(100))
