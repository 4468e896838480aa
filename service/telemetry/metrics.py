"""Metrics: every counter, gauge and histogram of the service, declared in one place."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.domain.checkout import CallOperation
from service.domain.effects import OPEN_STATES, Kind, Lane, Outcome
from service.domain.ledger import Chore
from service.domain.ports import Operation
from service.domain.records import PublicTopic

_M = TypeVar("_M", Counter, Gauge, Histogram)

# An acknowledgement is one commit: a millisecond when idle, tens when the disk is busy.
_WEBHOOK_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# A request to Splio: tens of milliseconds in good times, the time limit in bad ones.
_ATTEMPT_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
# From webhook to applied: milliseconds when idle, hours behind an outage or a backlog.
_APPLIED_BUCKETS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.5,
    1,
    5,
    30,
    60,
    300,
    1800,
    7200,
    43200,
    172800,
)
# Waiting for a permit: nothing when idle, up to minutes behind a backlog.
_WAIT_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300)
# Records per fetch or operations per commit: powers of four.
_BATCH_BUCKETS = (1, 4, 16, 64, 256, 1024)

WEBHOOK_OUTCOMES = (
    "accepted",
    "unreadable",
    "ignored",
    "unauthorized",
    "throttled",
    "malformed",
    "too_large",
    "unsupported_media_type",
    "too_slow",
    "disconnected",
    "unavailable",
)
BALANCE_ANSWERS = ("fresh", "asked", "last_known", "unknown")
LOYALTY_OUTCOMES = (
    "answered",
    "taken",
    "repeated",
    "conflict",
    "more_than_captured",
    "no_capture",
    "counted",
    "invalid",
    "unknown",
    "refused",
    "unauthorized",
    "throttled",
    "malformed",
    "too_large",
    "unsupported_media_type",
    "too_slow",
    "disconnected",
    "unavailable",
)


class Metrics:
    """
    All metrics on one registry; label values come from closed sets and read 0 from the start.

    The names, labels and help texts are a public contract: the README's table lists them and a
    test compares the two.
    """

    def __init__(self, registry: CollectorRegistry) -> None:  # noqa: PLR0915  a list, nothing else
        self.registry = registry
        kinds = [kind.value for kind in Kind]
        lanes = [lane.value for lane in Lane]
        operations = [operation.value for operation in Operation]

        self.webhooks = self._counter(
            "relay_webhooks_total",
            "Webhooks received, by how they were answered.",
            outcome=WEBHOOK_OUTCOMES,
        )
        self.webhook_seconds = self._histogram(
            "relay_webhook_duration_seconds",
            "Seconds from a webhook's headers to its answer.",
            _WEBHOOK_BUCKETS,
        )
        self.events_published = self._counter(
            "relay_events_published_total",
            "Events handed to the log, by whether the log acknowledged them.",
            outcome=("acknowledged", "failed"),
        )
        self.log_commit_records = self._histogram(
            "relay_log_commit_records", "Records written by one commit of the log.", _BATCH_BUCKETS
        )
        self.log_queue = self._gauge(
            "relay_log_queue_records", "Records waiting for the log's next commit."
        )
        self.log_connected = self._gauge(
            "relay_log_connected", "1 while the log's brokers take appends of this process."
        )
        self.log_rebalances = self._counter(
            "relay_log_rebalances_total",
            "Times that streams of the log were assigned to this process or taken from it.",
            event=("assigned", "revoked", "lost"),
        )
        self.streams_out_of_range = self._gauge(
            "relay_streams_out_of_range",
            "Streams not read, as the log does not hold or we cannot decode what comes next.",
        )
        self.records_skipped = self._counter(
            "relay_records_skipped_total",
            "Records of the log passed over because their bytes are damaged.",
        )
        self.spooling = self._gauge(
            "relay_spooling", "1 while events go to the spool because the broker is away."
        )
        self.spool_records = self._gauge(
            "relay_spool_records", "Records in the spool that the broker does not have yet."
        )
        self.spool_bytes = self._gauge(
            "relay_spool_bytes",
            "Bytes that count against RELAY_SPOOL_LIMIT, records set aside included.",
        )
        self.spool_limit = self._gauge(
            "relay_spool_limit_bytes", "RELAY_SPOOL_LIMIT; 0 in a process without a spool."
        )
        self.spool_oldest = self._gauge(
            "relay_spool_oldest_timestamp_seconds",
            "When the oldest record in the spool was appended, seconds since the epoch; "
            "0 when none.",
        )
        self.spool_forwarded = self._counter(
            "relay_spool_forwarded_total", "Records taken from the spool to the broker."
        )
        self.spool_set_aside = self._gauge(
            "relay_spool_set_aside_records",
            "Spooled records that the broker refused for good; they are tried again.",
        )
        self.records_consumed = self._counter(
            "relay_records_consumed_total",
            "Records read from the log, by what became of them.",
            consumer=("intake",),
            outcome=("planned", "repeated", "conflict", "dead_letter", "ignored"),
        )
        self.events_ignored = self._counter(
            "relay_events_ignored_total",
            "Events ignored for a named reason.",
            reason=("event_type_not_used", "test_customer", "unmapped_shop", "guest_order"),
        )
        self.consumer_lag = self._gauge(
            "relay_consumer_lag_records",
            "Records in the log that intake has not planned yet.",
            labels=("topic", "partition"),
        )
        self.effects_planned = self._counter(
            "relay_effects_planned_total", "Effects planned.", effect=kinds
        )
        self.points_elsewhere = self._counter(
            "relay_points_booked_elsewhere_total",
            "Points named by webhooks that another way books (RELAY_POINTS_FROM).",
        )
        self.attempts = self._counter(
            "relay_attempts_total",
            "Attempts of effects at Splio, by how they ended.",
            effect=kinds,
            outcome=[outcome.value for outcome in Outcome],
        )
        self.attempt_seconds = self._histogram(
            "relay_attempt_duration_seconds",
            "Seconds from claim to outcome of one attempt.",
            _ATTEMPT_BUCKETS,
            effect=kinds,
        )
        self.retries = self._counter(
            "relay_retries_total",
            "Attempts after which the effect is due again, by reason.",
            effect=kinds,
            reason=(
                "rate_limited",
                "not_connected",
                "no_answer",
                "unauthorized",
                "missing",
                "unknown_card",
                "deadline_passed",
                "lane_paused",
                "awaits_subscription",
                "unknown_refusal",
            ),
        )
        self.late_outcomes = self._counter(
            "relay_late_outcomes_total",
            "Outcomes that came after their claim was lost.",
            effect=kinds,
        )
        self.look_ups = self._counter(
            "relay_look_ups_total",
            "Look-ups of effects in doubt, by what they showed.",
            effect=kinds,
            verdict=("found", "different", "absent", "hold", "unknown"),
        )
        self.suspected_doubles = self._counter(
            "relay_suspected_doubles_total",
            "Effects that two attempts report as applied. Look at each at Splio.",
            effect=kinds,
        )
        self.loyalty_calls = self._counter(
            "relay_loyalty_calls_total",
            "Loyalty calls of SCAYLE Checkout, by how they were answered.",
            operation=[operation.value for operation in CallOperation],
            outcome=LOYALTY_OUTCOMES,
        )
        self.loyalty_call_seconds = self._histogram(
            "relay_loyalty_call_duration_seconds",
            "Seconds from a loyalty call's headers to its answer.",
            _WEBHOOK_BUCKETS,
            operation=[operation.value for operation in CallOperation],
        )
        self.balance_answers = self._counter(
            "relay_balance_answers_total",
            "Balances answered, by where they came from; unknown ones were refused.",
            answer=BALANCE_ANSWERS,
        )
        self.points_captured = self._counter(
            "relay_points_captured_total", "Points that captures took, before any refund."
        )
        self.captures_over_balance = self._counter(
            "relay_captures_over_balance_total",
            "Captures of more points than the card was known to have; taken all the same.",
        )
        self.points_taken = self._counter(
            "relay_points_taken_total", "Points that debits took at Splio, by this process."
        )
        self.holds_open = self._gauge(
            "relay_holds_open", "Captures that still lower a balance that we answer."
        )
        self.held_points = self._gauge("relay_held_points", "Points that these hold.")
        self.oldest_hold = self._gauge(
            "relay_oldest_hold_timestamp_seconds",
            "When the oldest of these captures came, seconds since the epoch; 0 when none.",
        )
        self.oldest_unshown_debit = self._gauge(
            "relay_oldest_unshown_debit_timestamp_seconds",
            "When the oldest debit was granted that Splio does not show yet, seconds since the "
            "epoch; 0 when none.",
        )
        self.collects_missing = self._gauge(
            "relay_collects_missing",
            "Orders with a card whose collect has not come within a day of their webhook.",
        )
        self.points_booked = self._counter(
            "relay_points_booked_total", "Points booked at Splio by this process."
        )
        self.applied_seconds = self._histogram(
            "relay_webhook_to_applied_seconds",
            "Seconds from a webhook's receipt until its effect was applied.",
            _APPLIED_BUCKETS,
            effect=kinds,
        )
        self.last_applied = self._gauge(
            "relay_last_applied_timestamp_seconds",
            "When an effect was last applied, seconds since the epoch.",
            consumer=("dispatcher",),
        )
        self.dead_letters = self._counter(
            "relay_dead_letters_total",
            "Dead letters made, by who made them and why.",
            consumer=("intake", "dispatcher", "checkout"),
            reason=(
                "conflict",
                "more_than_captured",
                "shop_missing",
                "contact_key_missing",
                "product_id_missing",
                "unknown_currency",
                "negative_points",
                "unreadable",
                "planning_failed",
                "refused",
                "mismatch",
                "unknown_card",
                "missing_not_accepted",
                "too_old",
                "by_operator",
            ),
        )
        self.dead_letters_open = self._gauge(
            "relay_dead_letters_open", "Dead letters that nobody replayed or dismissed yet."
        )
        self.ledger_entries = self._gauge(
            "relay_ledger_entries",
            "Open effects in the ledger.",
            effect=kinds,
            state=[state.value for state in OPEN_STATES],
        )
        self.oldest_open = self._gauge(
            "relay_oldest_open_timestamp_seconds",
            "When the oldest open effect was received, seconds since the epoch; 0 when none.",
            effect=kinds,
        )
        self.unseen_credits = self._gauge(
            "relay_unseen_credits",
            "Bookings Splio accepted that its points ledger has not shown yet.",
        )
        self.oldest_unseen = self._gauge(
            "relay_oldest_unseen_credit_timestamp_seconds",
            "When the oldest of them was accepted, seconds since the epoch; 0 when none.",
        )
        self.outbox_entries = self._gauge(
            "relay_outbox_entries", "Notices in the ledger that are not published yet."
        )
        self.oldest_outbox = self._gauge(
            "relay_oldest_outbox_timestamp_seconds",
            "When the oldest of them was written, seconds since the epoch; 0 when none.",
        )
        self.notices_published = self._counter(
            "relay_notices_published_total",
            "Notices that the log acknowledged; a repeat counts again.",
            topic=[topic.value for topic in PublicTopic],
        )
        self.ledger_commit_operations = self._histogram(
            "relay_ledger_commit_operations",
            "Plans, claims and outcomes written by one commit of the ledger.",
            _BATCH_BUCKETS,
        )
        self.ledger_queue = self._gauge(
            "relay_ledger_queue_operations", "Operations waiting for the ledger's next commit."
        )
        self.lane_queue = self._gauge(
            "relay_lane_queue_effects", "Effects in memory that wait for a permit.", lane=lanes
        )
        self.lane_in_flight = self._gauge(
            "relay_lane_in_flight_effects", "Effects being attempted.", lane=lanes
        )
        self.lane_paused = self._gauge(
            "relay_lane_paused", "1 while a lane stands still after an unknown refusal.", lane=lanes
        )
        self.lane_braked = self._gauge(
            "relay_lane_braked", "1 while a lane waits for a person to release it.", lane=lanes
        )
        self.limiter_wait_seconds = self._histogram(
            "relay_limiter_wait_seconds",
            "Seconds that a request waited for its permit.",
            _WAIT_BUCKETS,
            lane=lanes,
        )
        self.requests = self._counter(
            "relay_splio_requests_total",
            "Requests to Splio, by operation and answer.",
            operation=operations,
            answer=("2xx", "400", "401", "404", "429", "4xx", "5xx", "none"),
        )
        self.request_seconds = self._histogram(
            "relay_splio_request_duration_seconds",
            "Seconds of one request to Splio.",
            _ATTEMPT_BUCKETS,
            operation=operations,
        )
        self.rate_left = self._gauge(
            "relay_splio_rate_remaining",
            "Requests left as Splio's headers last said; -1 when they said nothing.",
            lane=lanes,
        )
        self.breaker_open = self._gauge(
            "relay_breaker_open", "1 while no request is sent because Splio does not answer."
        )
        self.prerequisites = self._counter(
            "relay_prerequisites_created_total",
            "Contacts, products and stores created because an order needed them.",
            kind=("contact", "product", "store"),
        )
        self.event_loop_lag = self._histogram(
            "relay_event_loop_lag_seconds",
            "Seconds by which the event loop was late, measured once a second.",
            _WEBHOOK_BUCKETS,
        )
        self.clock_drift = self._gauge(
            "relay_clock_drift_seconds",
            "The machine's clock less the clock this process keeps since its start.",
        )
        self.disk_free = self._gauge(
            "relay_disk_free_bytes",
            "Room left where log and ledger write.",
            store=("log", "ledger"),
        )
        self.storage_full = self._gauge(
            "relay_storage_low",
            "1 while webhooks get 503 and claiming stands still because disk runs low.",
        )
        self.duty_held = self._gauge(
            "relay_duty_held",
            "1 where this process does a chore that one of all does.",
            duty=[chore.value for chore in Chore],
        )
        self.ledger_available = self._gauge(
            "relay_ledger_available", "1 while the ledger answers, as the chores last saw."
        )
        self.ready = self._gauge("relay_ready", "1 while the process can take and process events.")

    def _counter(self, name: str, help_text: str, **labels: Sequence[str]) -> Counter:
        metric = Counter(name, help_text, tuple(labels), registry=self.registry)
        return _create_children(metric, labels)

    def _gauge(
        self,
        name: str,
        help_text: str,
        labels: tuple[str, ...] | None = None,
        **closed: Sequence[str],
    ) -> Gauge:
        metric = Gauge(name, help_text, labels or tuple(closed), registry=self.registry)
        return _create_children(metric, closed)

    def _histogram(
        self, name: str, help_text: str, buckets: tuple[float, ...], **labels: Sequence[str]
    ) -> Histogram:
        metric = Histogram(name, help_text, tuple(labels), buckets=buckets, registry=self.registry)
        return _create_children(metric, labels)


def _create_children(metric: _M, labels: Mapping[str, Sequence[str]]) -> _M:
    """Create every combination of the closed label values, so that each reads 0 from the start."""
    if labels:
        for values in product(*labels.values()):
            metric.labels(*values)
    return metric
