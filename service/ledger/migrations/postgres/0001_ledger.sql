-- What: the tables of the ledger on PostgreSQL.
-- Why: the first schema; the same as the embedded one's, with what several processes need.
-- When: pre (before the code that uses it).
--
-- Times are milliseconds since the epoch by this server's clock. The ids of records, bodies,
-- attempts and orders are handed out by the writers: milliseconds times 2^20, then the writer's
-- number and a counter, so what is older than a time is a range of the primary key.
-- Keys compare byte by byte (COLLATE "C"), as ranges of them are read by their prefix.

-- The clock that leases, look-ups and schedules go by, one for all processes.
CREATE FUNCTION relay_now_ms() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE
    AS 'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint';

CREATE TABLE meta (
    name  text COLLATE "C" NOT NULL PRIMARY KEY,
    value text NOT NULL
);

-- One row per transaction key, for ever. The unique key makes an effect exist once; every change
-- of `state` is an UPDATE that names the state and the attempt it expects.
-- Pages keep room, so that a claim and its outcome find place on the page of their effect. They
-- write every index all the same, as the state is part of one.
CREATE TABLE effects (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    effect_key          text COLLATE "C" NOT NULL,
    kind                text COLLATE "C" NOT NULL,
    lane                text COLLATE "C" NOT NULL,
    order_key           text COLLATE "C" NOT NULL,
    after               text COLLATE "C",
    fingerprint         text COLLATE "C" NOT NULL,
    state               text COLLATE "C" NOT NULL,
    attempt             bigint NOT NULL DEFAULT 0,
    due_at              bigint NOT NULL,
    lease_owner         text COLLATE "C",
    lease_until         bigint,
    reason              text,
    event_id            text NOT NULL,
    traceparent         text NOT NULL,
    points              bigint NOT NULL,
    received_at         bigint NOT NULL,
    created_at          bigint NOT NULL,
    first_attempt_at    bigint,
    started_at          bigint,
    settled_at          bigint,
    seen_at             bigint,
    was_in_doubt        integer NOT NULL DEFAULT 0,
    applied_attempt     bigint,
    absence_counts_from bigint,
    resends             integer NOT NULL DEFAULT 0,
    rounds              integer NOT NULL DEFAULT 0,
    duplicates_seen     bigint NOT NULL DEFAULT 0,
    body_id             bigint,
    record_id           bigint NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01,
        autovacuum_vacuum_insert_scale_factor = 0.05);
CREATE UNIQUE INDEX effects_by_key ON effects (effect_key);

-- All that is not simply applied, so its size follows the open work and not the keys of the past.
CREATE INDEX effects_unfinished ON effects (state, lane, due_at, kind, received_at)
    WHERE state <> 'applied';
-- Followers of an effect that was settled.
CREATE INDEX effects_waiting ON effects (after) WHERE state = 'blocked';
-- Credits that Splio accepted and has not shown yet.
CREATE INDEX effects_unseen ON effects (settled_at)
    WHERE state = 'applied' AND kind = 'earn' AND seen_at IS NULL;

CREATE TABLE records (
    id          bigint NOT NULL PRIMARY KEY,
    topic       text COLLATE "C" NOT NULL,
    "partition" bigint NOT NULL,
    "offset"    bigint NOT NULL,
    key         text,
    headers     text   NOT NULL,
    value       bytea  NOT NULL,
    appended_at bigint NOT NULL,
    event_type  text   NOT NULL,
    effect_keys text   NOT NULL
);

CREATE TABLE bodies (
    id              bigint NOT NULL PRIMARY KEY,
    effect_key      text COLLATE "C" NOT NULL,
    path            text  NOT NULL,
    body            bytea NOT NULL,
    idempotency_key text,
    prerequisites   text
);

CREATE TABLE attempts (
    id         bigint NOT NULL PRIMARY KEY,
    effect_id  bigint NOT NULL,
    attempt    bigint NOT NULL,
    started_at bigint,
    ended_at   bigint NOT NULL,
    outcome    text COLLATE "C" NOT NULL,
    result     text COLLATE "C" NOT NULL,
    reason     text,
    status     bigint,
    detail     text   NOT NULL,
    by         text
);
CREATE INDEX attempts_by_effect ON attempts (effect_id);

CREATE TABLE orders (
    id          bigint NOT NULL PRIMARY KEY,
    order_key   text COLLATE "C" NOT NULL UNIQUE,
    card        text,
    points      bigint,
    points_from text   NOT NULL,
    currency    text   NOT NULL,
    items       text   NOT NULL
);

CREATE TABLE positions (
    topic       text COLLATE "C" NOT NULL,
    "partition" bigint NOT NULL,
    position    bigint NOT NULL,
    updated_at  bigint NOT NULL,
    recover_until bigint,                              -- what lies before it may be at Splio already
    PRIMARY KEY (topic, "partition")
);

CREATE TABLE dead_letters (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dedupe_key   text COLLATE "C" NOT NULL UNIQUE,
    kind         text   NOT NULL,
    effect_key   text COLLATE "C",
    order_key    text COLLATE "C",
    event_id     text   NOT NULL,
    reason       text   NOT NULL,
    detail       text   NOT NULL,
    record_id    bigint NOT NULL,
    at           bigint NOT NULL,
    times_seen   bigint NOT NULL DEFAULT 1,
    last_seen_at bigint NOT NULL,
    replayed_at  bigint,
    replayed_by  text,
    dismissed_at bigint,
    dismissed_by text
);
CREATE INDEX dead_letters_by_record ON dead_letters (record_id);
CREATE INDEX dead_letters_by_order ON dead_letters (order_key);
CREATE INDEX dead_letters_open ON dead_letters (id)
    WHERE replayed_at IS NULL AND dismissed_at IS NULL;

CREATE TABLE brakes (
    lane        text COLLATE "C" NOT NULL PRIMARY KEY,
    reason      text   NOT NULL,
    since       bigint NOT NULL,
    released_at bigint,
    released_by text
);

-- What downstream services are still to be told; written with what it tells of.
CREATE TABLE outbox (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    notice         text COLLATE "C" NOT NULL,         -- outcome or dead_letter
    effect_key     text COLLATE "C",
    kind           text COLLATE "C" NOT NULL,
    order_key      text COLLATE "C",
    outcome        text COLLATE "C",
    reason         text,
    points         bigint,
    attempt        bigint,
    reference      text,
    event_id       text   NOT NULL,
    at             bigint NOT NULL,
    dead_letter_id bigint,
    event_type     text,
    topic          text,
    "partition"    bigint,
    "offset"       bigint
);

-- When the next request of a lane may go, one row a lane for all processes.
CREATE TABLE schedule (
    lane    text COLLATE "C" NOT NULL PRIMARY KEY,
    next_at double precision NOT NULL                  -- seconds since the epoch
) WITH (fillfactor = 50);

-- Chores that one of many processes does, for as long as its lease lasts.
CREATE TABLE duties (
    duty  text COLLATE "C" NOT NULL PRIMARY KEY,
    owner text COLLATE "C" NOT NULL,
    until bigint NOT NULL
);
