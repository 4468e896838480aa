-- What: notices that wait to be published; how far a recovered ledger plans in doubt.
-- Why: with the log on Kafka, downstream services are told of settled effects and dead letters. A
-- ledger that was put back from a copy, or lost, must look at Splio before it sends.
-- When: pre (before the code that uses it).
CREATE TABLE outbox (
    id             INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice
    notice         TEXT    NOT NULL,                  -- outcome or dead_letter
    effect_key     TEXT,
    kind           TEXT    NOT NULL,
    order_key      TEXT,
    outcome        TEXT,
    reason         TEXT,
    points         INTEGER,
    attempt        INTEGER,
    reference      TEXT,
    event_id       TEXT    NOT NULL,
    at             INTEGER NOT NULL,
    dead_letter_id INTEGER,
    event_type     TEXT,
    topic          TEXT,
    "partition"    INTEGER,
    "offset"       INTEGER
) STRICT;

-- Records before it were perhaps planned by a ledger that is gone; what they ask for is in doubt.
ALTER TABLE positions ADD COLUMN recover_until INTEGER;
