-- What: points that a checkout spent, refunds that came before their capture, the balances that
-- Splio last said, collects that are waited for, and what the checkout's calls look like.
-- Why: SCAYLE Checkout's loyalty calls.
-- When: pre (before the code that uses it).

-- One row per capture: what it still lowers the balance of its card by is
-- points - shrunk - shown, for as long as it is not ended.
CREATE TABLE holds (
    id              bigint           NOT NULL PRIMARY KEY,
    effect_key      text COLLATE "C" NOT NULL UNIQUE,   -- of the capture
    program         text COLLATE "C" NOT NULL,          -- SCAYLE's key
    transaction_key text COLLATE "C" NOT NULL,
    order_key       text COLLATE "C" NOT NULL,
    card            text COLLATE "C" NOT NULL,
    currency        text COLLATE "C",
    amount          bigint           NOT NULL,          -- captured, in the unit of the calls
    refunded        bigint           NOT NULL DEFAULT 0,-- of `amount`, never more
    points          bigint           NOT NULL,          -- captured
    given_back      bigint           NOT NULL DEFAULT 0,-- of `points`, the share that is refunded
    shrunk          bigint           NOT NULL DEFAULT 0,-- of these, what need not be taken at Splio
    shown           bigint           NOT NULL DEFAULT 0,-- taken at Splio, whose balance shows it
    revision        bigint           NOT NULL,          -- of the debits, which a refund plans anew
    debits          text COLLATE "C" NOT NULL,          -- JSON array of their keys
    received_at     bigint           NOT NULL,
    ended_at        bigint,
    ended_by        text COLLATE "C"                    -- the operator, null when the balance did it
);
CREATE INDEX holds_open ON holds (card) WHERE ended_at IS NULL;
CREATE INDEX holds_by_order ON holds (order_key);

-- Refunds whose capture is not there yet; their effects are blocked, or held after a while.
CREATE TABLE waiting_refunds (
    effect_key      text COLLATE "C" NOT NULL PRIMARY KEY,
    capture_key     text COLLATE "C" NOT NULL,
    program         text COLLATE "C" NOT NULL,
    order_key       text COLLATE "C" NOT NULL,
    card            text COLLATE "C" NOT NULL,
    amount          bigint           NOT NULL,
    points          bigint           NOT NULL,
    since           bigint           NOT NULL
);
CREATE INDEX waiting_refunds_by_order ON waiting_refunds (order_key);

-- The newest balance that Splio said of a card; null for a card that it did not know.
CREATE TABLE balances (
    card            text COLLATE "C" NOT NULL PRIMARY KEY,
    points          bigint,
    asked_at        bigint           NOT NULL,
    -- Raised whenever it began to show a debit, or a hold was ended otherwise: what was asked
    -- before that must not take its place.
    generation      bigint           NOT NULL DEFAULT 0
);
CREATE INDEX balances_by_time ON balances (asked_at);

-- Orders with a card whose points SCAYLE Checkout is to collect (RELAY_POINTS_FROM=collect).
CREATE TABLE awaited_collects (
    effect_key      text COLLATE "C" NOT NULL PRIMARY KEY,
    fingerprint     text COLLATE "C" NOT NULL,          -- of card and points
    since           bigint           NOT NULL
);
CREATE INDEX awaited_collects_by_time ON awaited_collects (since);

-- The structure last seen of each kind of call and webhook: names and types, never values.
CREATE TABLE shapes (
    source          text COLLATE "C" NOT NULL PRIMARY KEY,
    shape           text COLLATE "C" NOT NULL,          -- JSON
    seen_at         bigint           NOT NULL
);

-- Credits are refunds too.
DROP INDEX effects_unseen;
CREATE INDEX effects_unseen ON effects (settled_at)
    WHERE state = 'applied' AND kind IN ('earn', 'refund') AND seen_at IS NULL;

-- What belongs to an order, or a customer, and does not name it in its key.
CREATE INDEX effects_of_calls ON effects (order_key)
    WHERE kind IN ('capture', 'debit', 'refund', 'member');

-- Debits that Splio granted and has not shown yet.
CREATE INDEX effects_unshown ON effects (settled_at)
    WHERE state = 'applied' AND kind = 'debit' AND seen_at IS NULL;
