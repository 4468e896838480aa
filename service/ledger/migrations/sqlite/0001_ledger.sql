-- What: the tables of the embedded ledger.
-- Why: the first schema.
-- When: pre (before the code that uses it).
--
-- Times are milliseconds since the epoch. The ids of records, bodies, attempts and orders are
-- handed out by the writer: milliseconds times 2^20 plus a counter. They only grow, so rows are
-- appended, and what is older than a time is a range of the primary key that needs no index.

-- What this file belongs to; a mismatch with the settings refuses to start.
CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per transaction key, for ever. The unique key makes an effect exist once; every change
-- of `state` is an UPDATE that names the state and the attempt it expects.
-- Rows stand in the order of planning and not of their keys: with random order ids the open work
-- would otherwise be spread over the whole table, a page written for every row (measured: a claim
-- and its outcome cost twice as much with 1,000,000 keys).
CREATE TABLE effects (
    id                  INTEGER PRIMARY KEY,          -- the order of planning
    effect_key          TEXT    NOT NULL UNIQUE,
    kind                TEXT    NOT NULL,
    lane                TEXT    NOT NULL,
    order_key           TEXT    NOT NULL,
    after               TEXT,                         -- the key it waits for
    fingerprint         TEXT    NOT NULL,
    state               TEXT    NOT NULL,
    attempt             INTEGER NOT NULL DEFAULT 0,   -- the number of the last claim
    due_at              INTEGER NOT NULL,             -- due: the next attempt; in doubt: the look-up
    lease_owner         TEXT,
    lease_until         INTEGER,
    reason              TEXT,
    event_id            TEXT    NOT NULL,
    traceparent         TEXT    NOT NULL,
    points              INTEGER NOT NULL,
    received_at         INTEGER NOT NULL,
    created_at          INTEGER NOT NULL,
    first_attempt_at    INTEGER,
    started_at          INTEGER,                      -- the last claim
    settled_at          INTEGER,
    seen_at             INTEGER,                      -- Splio's points ledger showed it
    was_in_doubt        INTEGER NOT NULL DEFAULT 0,
    applied_attempt     INTEGER,                      -- null also when a look-up found it
    absence_counts_from INTEGER,
    resends             INTEGER NOT NULL DEFAULT 0,
    rounds              INTEGER NOT NULL DEFAULT 0,
    duplicates_seen     INTEGER NOT NULL DEFAULT 0,
    body_id             INTEGER,                      -- may name a body that was purged
    record_id           INTEGER NOT NULL              -- may name a record that was purged
) STRICT;

-- All that is not simply applied, so its size follows the open work and not the keys of the past.
-- Serves polling, look-ups, leases, the tally (covering) and the operators' lists.
CREATE INDEX effects_unfinished ON effects (state, lane, due_at, kind, received_at)
    WHERE state <> 'applied';

-- Followers of an effect that was settled.
CREATE INDEX effects_waiting ON effects (after) WHERE state = 'blocked';

-- Credits that Splio accepted and has not shown yet.
CREATE INDEX effects_unseen ON effects (settled_at)
    WHERE state = 'applied' AND kind = 'earn' AND seen_at IS NULL;

-- The log's records that effects or dead letters come from: what a replay plans again.
CREATE TABLE records (
    id          INTEGER NOT NULL PRIMARY KEY,
    topic       TEXT    NOT NULL,
    "partition" INTEGER NOT NULL,
    "offset"    INTEGER NOT NULL,
    key         TEXT,
    headers     TEXT    NOT NULL,                     -- JSON object
    value       BLOB    NOT NULL,
    appended_at INTEGER NOT NULL,
    event_type  TEXT    NOT NULL,
    effect_keys TEXT    NOT NULL                      -- JSON array: purging asks whether one is open
) STRICT;

-- Rendered requests, never changed.
CREATE TABLE bodies (
    id              INTEGER NOT NULL PRIMARY KEY,
    effect_key      TEXT    NOT NULL,
    path            TEXT    NOT NULL,
    body            BLOB    NOT NULL,
    idempotency_key TEXT,
    prerequisites   TEXT                              -- JSON array of [kind, name, path, body]
) STRICT;

-- The audit trail: how attempts ended, what look-ups showed, what operators did.
CREATE TABLE attempts (
    id         INTEGER NOT NULL PRIMARY KEY,
    effect_id  INTEGER NOT NULL,                      -- effects.id: grows, as the index does
    attempt    INTEGER NOT NULL,
    started_at INTEGER,
    ended_at   INTEGER NOT NULL,
    outcome    TEXT    NOT NULL,
    result     TEXT    NOT NULL,                      -- what recording it did
    reason     TEXT,
    status     INTEGER,
    detail     TEXT    NOT NULL,
    by         TEXT                                   -- the operator, null when the service did it
) STRICT;
CREATE INDEX attempts_by_effect ON attempts (effect_id);

-- Facts that later events of an order need; no names.
CREATE TABLE orders (
    id          INTEGER NOT NULL PRIMARY KEY,
    order_key   TEXT    NOT NULL UNIQUE,
    card        TEXT,
    points      INTEGER,
    points_from TEXT    NOT NULL,
    currency    TEXT    NOT NULL,
    items       TEXT    NOT NULL                      -- JSON array of [item id, amount]
) STRICT;

-- Where intake goes on, per stream.
CREATE TABLE positions (
    topic       TEXT    NOT NULL,
    "partition" INTEGER NOT NULL,
    position    INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    PRIMARY KEY (topic, "partition")
) STRICT, WITHOUT ROWID;

-- Records and effects set aside. The unique key makes one content one dead letter.
CREATE TABLE dead_letters (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,   -- never used twice
    dedupe_key   TEXT    NOT NULL UNIQUE,
    kind         TEXT    NOT NULL,                    -- of the effect, else 'event'
    effect_key   TEXT,
    order_key    TEXT,
    event_id     TEXT    NOT NULL,
    reason       TEXT    NOT NULL,
    detail       TEXT    NOT NULL,
    record_id    INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    times_seen   INTEGER NOT NULL DEFAULT 1,
    last_seen_at INTEGER NOT NULL,
    replayed_at  INTEGER,
    replayed_by  TEXT,
    dismissed_at INTEGER,
    dismissed_by TEXT
) STRICT;
CREATE INDEX dead_letters_by_record ON dead_letters (record_id);
CREATE INDEX dead_letters_by_order ON dead_letters (order_key);
CREATE INDEX dead_letters_open ON dead_letters (id)
    WHERE replayed_at IS NULL AND dismissed_at IS NULL;

-- Lanes that a person must release; the row stays to tell who released it last.
CREATE TABLE brakes (
    lane        TEXT    NOT NULL PRIMARY KEY,
    reason      TEXT    NOT NULL,
    since       INTEGER NOT NULL,
    released_at INTEGER,
    released_by TEXT
) STRICT, WITHOUT ROWID;
