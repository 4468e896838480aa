"""Settings: what an environment may say, and what is said about what it may not."""

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.setting_model import FIELDS, SECRETS, variable
from service.setting_values import kafka_servers
from service.settings import (
    DeadLetterBrake,
    Settings,
    SettingsError,
    ShopSettings,
    VisibleAfter,
    describe,
    load_settings,
)

COMPLETE = {
    "RELAY_WEBHOOK_CREDENTIALS": "scayle:one",
    "RELAY_SPLIO_URL": "https://api.splio.com/",
    "RELAY_SPLIO_API_KEY": "key",
}


# Fields whose value needs another one, or a file.
NOT_ALONE = {
    *("tls_cert", "tls_key", "kafka_user", "kafka_password", "kafka_ca", "kafka_cert", "kafka_key"),
    *("loyalty_tokens", "loyalty_rates"),
}


def load(**variables: str) -> Settings:
    """Settings from a complete environment with `variables` (without prefix) on top."""
    return load_settings(
        {**COMPLETE, **{f"RELAY_{name}": text for name, text in variables.items()}}
    )


def problems_of(
    environ: Mapping[str, str], *, sandbox: bool = False, serving: bool = True
) -> dict[str, str]:
    """The message by variable of a refused environment."""
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, sandbox=sandbox, serving=serving)
    found = {problem.variable: problem.message for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems)
    return found


def refused(**variables: str) -> dict[str, str]:
    return problems_of(COMPLETE | {f"RELAY_{name}": text for name, text in variables.items()})


def test_defaults_are_those_of_the_embedded_service() -> None:
    settings = load()

    assert (settings.http_host, settings.http_port) == ("127.0.0.1", 8080)
    assert (settings.operations_host, settings.operations_port) == ("127.0.0.1", 8081)
    assert settings.log_path == Path("data/relay-log.db")
    assert settings.ledger_path == Path("data/relay-ledger.db")
    assert settings.sandbox_path == Path("data/sandbox.db")
    assert (settings.spool_path, settings.spool_limit) == (None, 1 << 30)
    assert settings.body_limit == 512 * 1024
    assert settings.disk_reserve == 256 * 1024 * 1024
    assert settings.max_connections == 512
    assert settings.splio_url == "https://api.splio.com"
    assert settings.splio_limits == {"contacts": 20.0, "sales": 20.0, "other": 10.0}
    assert settings.visible_after_s == VisibleAfter(orders=60.0, credits=900.0, grants=900.0)
    assert settings.dead_letter_brake == DeadLetterBrake(run=20, share=0.1)
    assert settings.request_timeout_s == 10.0
    assert settings.lease_margin_s == 20.0
    assert settings.card_patience_s == 72 * 3600
    assert settings.retention_s == 30 * 86400
    assert settings.grace_s == 20.0
    assert settings.timezone == ZoneInfo("UTC")
    assert (settings.points_from, settings.points_kind) == ("webhook", "nq")
    assert (settings.points_limit, settings.points_tolerance) == (100_000, 1)
    assert settings.points_factor is None
    assert settings.credit_is_final
    assert settings.shops == {}
    assert settings.warnings == ()


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("REQUEST_TIMEOUT", "500ms", "request_timeout_s", 0.5),
        ("REQUEST_TIMEOUT", " 1.5s ", "request_timeout_s", 1.5),
        ("CARD_PATIENCE", "0s", "card_patience_s", 0.0),
        ("RETENTION", "14d", "retention_s", 14 * 86400.0),
        ("BODY_LIMIT", "2MiB", "body_limit", 2 << 20),
        ("DISK_RESERVE", "0B", "disk_reserve", 0),
        ("SPOOL_PATH", "/volume/spool.db", "spool_path", Path("/volume/spool.db")),
        ("SPOOL_LIMIT", "2GiB", "spool_limit", 2 << 30),
        ("HTTP_PORT", "0", "http_port", 0),
        ("HTTP_HOST", "::1", "http_host", "::1"),
        ("BEHIND_TLS", "YES", "behind_tls", True),
        ("CREDIT_IS_FINAL", "0", "credit_is_final", False),
        ("POINTS_FACTOR", "0.1", "points_factor", Decimal("0.1")),
        ("POINTS_ROUNDING", "up", "points_rounding", "up"),
        ("SPLIO_PROGRAM", "7", "splio_program", 7),
        ("SPLIO_LIMITS", "off", "splio_limits", None),
        ("SPLIO_LIMITS", "other=4.5", "splio_limits", {"contacts": 20, "sales": 20, "other": 4.5}),
        ("DEAD_LETTER_BRAKE", "off", "dead_letter_brake", None),
        ("DEAD_LETTER_BRAKE", "5, 2.5%", "dead_letter_brake", DeadLetterBrake(5, 0.025)),
        ("VISIBLE_AFTER", "credits=1h", "visible_after_s", VisibleAfter(60.0, 3600.0, 900.0)),
        ("VISIBLE_AFTER", "grants=2m", "visible_after_s", VisibleAfter(60.0, 900.0, 120.0)),
        ("TIMEZONE", "Europe/Berlin", "timezone", ZoneInfo("Europe/Berlin")),
        ("LOG_URL", "sqlite:////var/lib/a%20log.db", "log_path", Path("/var/lib/a log.db")),
        ("LOG_URL", "kafka://a:9092,b", "log_url", "kafka://a:9092,b"),
        ("LOG_URL", "kafka://a:9092,b", "log_path", None),
        ("TOPIC_PREFIX", "shop.", "topic_prefix", "shop."),
        ("SPLIO_URL", "http://127.0.0.1:9/splio/", "splio_url", "http://127.0.0.1:9/splio"),
        ("SPLIO_URL", "http://[::1]:9", "splio_url", "http://[::1]:9"),
        ("TENANT", "", "tenant", "main"),
    ],
)
def test_text_is_read(name: str, text: str, field: str, value: object) -> None:
    assert getattr(load(**{name: text}), field) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("HTTP_PORT", "80x", "= '80x' is not a whole number"),
        ("HTTP_PORT", "1_000", "= '1_000' is not a whole number"),
        ("HTTP_PORT", "65536", "= '65536' is more than 65535"),
        ("HTTP_HOST", "http://here", "= 'http://here' is not a host name or an IP address"),
        ("LEASE_MARGIN", "900ms", "= '900ms' is less than 1s"),
        ("GRACE", "10", "= '10' is not a duration (a number followed by ms, s, m, h or d)"),
        ("BODY_LIMIT", "512KB", "is not a size"),
        ("BODY_LIMIT", "1GiB", "= '1GiB' is more than 64MiB"),
        ("POINTS_FROM", "both", "= 'both' is not 'webhook', 'collect' or 'rules'"),
        ("POINTS_FACTOR", "1e3", "is not a decimal number above zero"),
        ("POINTS_FACTOR", "0.0", "is not a decimal number above zero"),
        ("BEHIND_TLS", "maybe", "is neither yes (1, true, yes) nor no (0, false, no)"),
        ("TIMEZONE", "Europe/Berlim", "is not a time zone"),
        ("TIMEZONE", "../etc/passwd", "is not a time zone"),
        ("TIMEZONE", "Europe", "is not a time zone"),
        ("TENANT", "a:b", "may hold letters"),
        ("SPLIO_LIMITS", "orders=20", "each of contacts, sales, other at most once"),
        ("SPLIO_LIMITS", "other=1,other=2", "each of contacts, sales, other at most once"),
        ("SPLIO_LIMITS", "other=0", "has no number above zero for other"),
        ("VISIBLE_AFTER", "orders=60", "has for orders what is not a duration"),
        ("DEAD_LETTER_BRAKE", "20,10", "is not a whole number, a comma and a percentage"),
        ("DEAD_LETTER_BRAKE", "20,101%", "needs a run of at least 1"),
        ("LOG_URL", "kafka://", "has a server (number 1) that is not host or host:port"),
        ("LOG_URL", "kafka://a:9092,b:x", "has a server (number 2) that is not host or host:port"),
        (
            "LOG_URL",
            "kafka://a:9092/topic",
            "has a server (number 1) that is not host or host:port",
        ),
        ("LOG_URL", "kafka://me:secret@a:9092", "holds credentials; they belong in RELAY_KAFKA"),
        ("LEDGER_URL", "kafka://broker:9092", "asks for kafka://, which cannot serve here"),
        ("TOPIC_PREFIX", "a b", "may hold letters, digits"),
        ("KAFKA_MECHANISM", "gssapi", "is not 'plain', 'scram-sha-256' or 'scram-sha-512'"),
        ("LOG_URL", "postgresql://db/relay", "asks for postgresql://, which cannot serve here"),
        ("LEDGER_URL", "postgresql://db/relay?no=1", "is not an address like postgresql://user"),
        ("LOG_URL", "data/log.db", "is not an address like sqlite:///data/file.db"),
        ("LOG_URL", "sqlite://log.db", "is not sqlite:/// and a path"),
        ("LOG_URL", "sqlite:///data/", "does not name a file"),
        ("LOG_URL", "sqlite:///:memory:", "does not name a file"),
        ("LEDGER_URL", "sqlite:///data/../data/relay-log.db", "names the file of RELAY_LOG_URL"),
        ("SANDBOX_PATH", "data/relay-ledger.db", "names the file of RELAY_LEDGER_URL"),
        ("SPLIO_URL", "http://api.splio.com", "is http, which is allowed to this machine only"),
        ("SPLIO_URL", "https://key:x@api.splio.com", "holds credentials"),
        ("SPLIO_URL", "https://api.splio.com/?a=b", "has a query"),
        ("SPLIO_URL", "api.splio.com", "is not an https address"),
        ("OPERATIONS_PORT", "8080", "is also RELAY_HTTP_PORT; they must differ"),
        ("HTTP_HOST", "0.0.0.0", "is beyond loopback, which needs RELAY_TLS_CERT"),
        ("OPERATIONS_HOST", "relay.example", "is beyond loopback, which needs RELAY_TLS_CERT"),
        ("SHOPS", "[]", "is not a JSON object"),
        ("SHOPS", "{", "is not JSON (line 1"),
        ("SHOPS", '{"1": {"stroe": "x"}}', "unknown name"),
        ("SHOPS", '{"1": {"program": 0}}', "a program that is not a whole number above zero"),
        ("SHOPS", '{"1": {"timezone": "Mars"}}', "a timezone that is not a time zone"),
        ("SPLIO_STORE", "\udcff", "is not UTF-8 text"),
    ],
)
def test_a_wrong_value_is_named_with_its_reason(name: str, text: str, message: str) -> None:
    found = refused(**{name: text})

    assert list(found) == [f"RELAY_{name}"]
    assert message in found[f"RELAY_{name}"]


def test_all_problems_are_reported_together_one_line_each() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(
            {
                "RELAY_HTTP_HOST": "0.0.0.0",
                "RELAY_HTTP_PORT": "eighty\nand more",
                "RELAY_LEDGER_URL": "mysql://db",
                "RELAY_SPLIO_KEY": "key",
            }
        )

    assert [problem.variable for problem in caught.value.problems] == [
        "RELAY_HTTP_PORT",
        "RELAY_LEDGER_URL",
        "RELAY_HTTP_HOST",
        "RELAY_WEBHOOK_CREDENTIALS",
        "RELAY_SPLIO_URL",
        "RELAY_SPLIO_API_KEY",
    ]
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    assert all("; for example RELAY_" in line for line in lines)
    assert "RELAY_SPLIO_KEY" in caught.value.warnings[0]


def test_every_example_is_accepted() -> None:
    """An operator who copies the example out of a problem gets past it."""
    for field, info in FIELDS.items():
        assert info.examples
        if field not in NOT_ALONE:
            load(**{variable(field).removeprefix("RELAY_"): info.examples[0]})


def test_an_unknown_name_is_a_warning_that_names_the_nearest() -> None:
    settings = load(HTP_PORT="1", TENANT_FILE="x")

    assert settings.warnings == (
        "RELAY_HTP_PORT is not a setting and does nothing; the nearest is RELAY_HTTP_PORT",
        "RELAY_TENANT_FILE is not a setting and does nothing; the nearest is RELAY_TENANT",
    )


def test_credentials_are_percent_encoded_pairs() -> None:
    settings = load(WEBHOOK_CREDENTIALS="scayle:p%2Cw%3Ad%25, scayle:next,o%C3%B6:x")

    assert [(user, secret.get_secret_value()) for user, secret in settings.webhook_credentials] == [
        ("scayle", "p,w:d%"),
        ("scayle", "next"),
        ("oö", "x"),
    ]


@pytest.mark.parametrize(
    "text",
    ["hidden", "hidden:", ":hidden", "a:b,hidden", "a:hid:den", "a:hid%den", "a:%ff", "a%3Ab:c",
     "a:b%0Ac", "a:b,"],
)  # fmt: skip
def test_wrong_credentials_are_refused_unseen(text: str) -> None:
    message = refused(WEBHOOK_CREDENTIALS=text)["RELAY_WEBHOOK_CREDENTIALS"]

    assert "hid" not in message


def test_secrets_come_from_files(tmp_path: Path) -> None:
    key, pairs = tmp_path / "key", tmp_path / "pairs"
    key.write_text("from-a-file\n")
    pairs.write_text("\ufeffa:b,c:d\r\n")
    settings = load_settings(
        {
            "RELAY_SPLIO_URL": "https://api.splio.com",
            "RELAY_SPLIO_API_KEY": "",
            "RELAY_SPLIO_API_KEY_FILE": str(key),
            "RELAY_WEBHOOK_CREDENTIALS_FILE": str(pairs),
        }
    )

    assert settings.splio_api_key is not None
    assert settings.splio_api_key.get_secret_value() == "from-a-file"
    assert [user for user, _ in settings.webhook_credentials] == ["a", "c"]
    assert settings.sources["splio_api_key"] == "file"


def test_a_secret_set_twice_is_a_problem() -> None:
    assert refused(SPLIO_API_KEY_FILE="hidden") == {
        "RELAY_SPLIO_API_KEY": "and RELAY_SPLIO_API_KEY_FILE are both set"
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "names a file that cannot be read (No such file or directory)"),
        (b"\n", "names an empty file"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"x" * 70_000, "names a file of more than 65536 bytes"),
    ],
)
def test_an_unusable_secret_file_is_a_problem(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "hidden"
    if content is not None:
        path.write_bytes(content)

    assert refused(OPERATIONS_PASSWORD_FILE=str(path)) == {
        "RELAY_OPERATIONS_PASSWORD_FILE": message
    }


def test_a_secret_file_must_be_a_regular_file(tmp_path: Path) -> None:
    assert refused(OPERATIONS_PASSWORD_FILE=str(tmp_path)) == {
        "RELAY_OPERATIONS_PASSWORD_FILE": "does not name a regular file"
    }


def test_listening_beyond_loopback_needs_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.write_text("certificate")

    assert load(HTTP_HOST="0.0.0.0", BEHIND_TLS="1").behind_tls
    assert refused(HTTP_HOST="0.0.0.0", TLS_CERT=str(certificate)) == {
        "RELAY_TLS_KEY": "is missing beside RELAY_TLS_CERT"
    }
    assert refused(HTTP_HOST="0.0.0.0", TLS_CERT=str(certificate), TLS_KEY=str(key)) == {
        "RELAY_TLS_KEY": "names a file that cannot be read (No such file or directory)"
    }
    key.write_text("key")
    both = load(HTTP_HOST="0.0.0.0", TLS_CERT=str(certificate), TLS_KEY=str(key))
    assert (both.tls_cert, both.tls_key) == (certificate, key)


def test_kafka_servers_get_their_port() -> None:
    assert kafka_servers("kafka://a:1,b,[::1]:7") == ("a:1", "b:9092", "[::1]:7")


def test_a_kafka_user_needs_its_password() -> None:
    assert refused(KAFKA_USER="relay") == {
        "RELAY_KAFKA_PASSWORD": "is missing beside RELAY_KAFKA_USER"
    }
    assert refused(KAFKA_PASSWORD="hidden") == {
        "RELAY_KAFKA_USER": "is missing beside RELAY_KAFKA_PASSWORD"
    }
    assert load(KAFKA_USER="relay", KAFKA_PASSWORD="hidden").kafka_user == "relay"


def test_a_kafka_password_is_not_sent_in_the_clear_beyond_this_machine() -> None:
    plain = {"KAFKA_USER": "relay", "KAFKA_PASSWORD": "x", "KAFKA_MECHANISM": "plain"}

    assert load(LOG_URL="kafka://127.0.0.1:9092", **plain).kafka_mechanism == "plain"
    assert load(LOG_URL="kafka://broker", KAFKA_TLS="1", **plain).kafka_tls
    assert refused(LOG_URL="kafka://localhost,broker", **plain) == {
        "RELAY_KAFKA_MECHANISM": "sends the password unencrypted beyond this machine; set"
        " RELAY_KAFKA_TLS=1"
    }


def test_kafka_certificates_come_in_pairs_and_with_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "kafka.crt", tmp_path / "kafka.key"
    certificate.write_text("certificate")
    key.write_text("key")

    assert refused(KAFKA_TLS="1", KAFKA_CERT=str(certificate)) == {
        "RELAY_KAFKA_KEY": "is missing beside RELAY_KAFKA_CERT"
    }
    assert refused(KAFKA_CA=str(certificate)) == {
        "RELAY_KAFKA_CA": "is set without RELAY_KAFKA_TLS=1"
    }
    assert refused(KAFKA_TLS="1", KAFKA_CA=str(tmp_path / "none")) == {
        "RELAY_KAFKA_CA": "names a file that cannot be read (No such file or directory)"
    }
    both = load(KAFKA_TLS="1", KAFKA_CERT=str(certificate), KAFKA_KEY=str(key))
    assert (both.kafka_cert, both.kafka_key) == (certificate, key)


def test_shops_fall_back_to_the_single_values() -> None:
    settings = load(
        SPLIO_STORE="shared",
        SPLIO_PROGRAM="3",
        TIMEZONE="Asia/Tokyo",
        SHOPS='{"1042": {"store": "de", "timezone": "Europe/Berlin"}, "7": {"program": "9"}}',
    )

    assert settings.shops == {
        "1042": ShopSettings(store="de", program=3, timezone=ZoneInfo("Europe/Berlin")),
        "7": ShopSettings(store="shared", program=9, timezone=ZoneInfo("Asia/Tokyo")),
    }


def test_the_sandbox_supplies_credentials_and_short_waits() -> None:
    settings = load_settings({}, sandbox=True)

    assert settings.sandbox
    assert settings.splio_url is None
    assert settings.splio_api_key is not None
    assert settings.splio_api_key.get_secret_value() == "sandbox-api-key"
    assert settings.operations_password is not None
    assert settings.operations_password.get_secret_value() == "sandbox"
    [(user, password)] = settings.webhook_credentials
    assert (user, password.get_secret_value()) == ("scayle", "sandbox")
    assert (settings.request_timeout_s, settings.lease_margin_s) == (1.0, 1.0)
    assert settings.visible_after_s == VisibleAfter(orders=1.0, credits=2.0, grants=2.0)
    assert settings.sources["request_timeout_s"] == "sandbox"


def test_the_sandbox_keeps_what_is_set() -> None:
    settings = load_settings(
        COMPLETE
        | {
            "RELAY_SPLIO_URL": "http://localhost:1",
            "RELAY_VISIBLE_AFTER": "orders=3s",
            "RELAY_LEASE_MARGIN": "4s",
        },
        sandbox=True,
    )

    assert settings.splio_api_key is not None
    assert settings.splio_api_key.get_secret_value() == "key"
    assert settings.webhook_credentials[0][1].get_secret_value() == "one"
    assert settings.visible_after_s == VisibleAfter(orders=3.0, credits=2.0, grants=2.0)
    assert settings.lease_margin_s == 4.0


@pytest.mark.parametrize(
    "environ", [{"RELAY_HTTP_HOST": "0.0.0.0", "RELAY_BEHIND_TLS": "1"}, {"RELAY_BEHIND_TLS": "1"}]
)
def test_the_sandbox_credentials_never_open_a_door_to_others(environ: Mapping[str, str]) -> None:
    assert problems_of(environ, sandbox=True) == {
        "RELAY_WEBHOOK_CREDENTIALS": "is not set: the sandbox's fixed ones are for loopback only"
    }
    own = load_settings({**environ, "RELAY_WEBHOOK_CREDENTIALS": "a:b"}, sandbox=True)
    assert own.operations_password is None


def test_the_sandbox_rules_out_a_splio_elsewhere() -> None:
    """Demonstration orders must never reach a real universe."""
    assert list(problems_of(COMPLETE, sandbox=True)) == ["RELAY_SPLIO_URL"]


def test_a_command_that_only_looks_needs_no_credentials() -> None:
    settings = load_settings(
        {"RELAY_OPERATIONS_HOST": "relay.example", "RELAY_OPERATIONS_PORT": "8080"}, serving=False
    )

    assert settings.operations_host == "relay.example"
    assert list(problems_of({"RELAY_OPERATIONS_PORT": "x"}, serving=False)) == [
        "RELAY_OPERATIONS_PORT"
    ]


def test_describe_tells_values_and_sources_but_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "pw"
    path.write_text("hidden")
    rows = {
        row.name: row
        for row in describe(
            load(OPERATIONS_PASSWORD_FILE=str(path), GRACE="90s", SPLIO_API_KEY="hidden")
        )
    }

    assert set(rows) == {variable(field) for field in FIELDS}
    assert rows["RELAY_GRACE"].value == "90s"
    assert rows["RELAY_GRACE"].source == "environment"
    assert rows["RELAY_CARD_PATIENCE"].value == "3d"
    assert rows["RELAY_CARD_PATIENCE"].source == "default"
    assert rows["RELAY_SPLIO_API_KEY"].value == "set"
    assert rows["RELAY_OPERATIONS_PASSWORD"].source == "file"
    assert rows["RELAY_POINTS_FACTOR"].value == "not set"
    assert all(row.description.endswith(".") for row in rows.values())
    assert "hidden" not in str(rows)


def test_a_small_factor_is_told_as_it_is_set() -> None:
    rows = {row.name: row.value for row in describe(load(POINTS_FACTOR="0.000000001"))}

    assert rows["RELAY_POINTS_FACTOR"] == "0.000000001"


ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=60)
KNOWN = st.sampled_from(
    [variable(field) for field in FIELDS] + [f"{variable(field)}_FILE" for field in FIELDS]
)
EXAMPLES = st.sampled_from([example for info in FIELDS.values() for example in info.examples or ()])
VALUES = st.one_of(
    ANY_TEXT,
    EXAMPLES,
    st.from_regex(r"[0-9.]{1,12}(ms|s|m|h|d|B|KiB|%)?", fullmatch=True),
    st.from_regex(r"(sqlite|kafka|http|https)://[a-z0-9.:/%@\[\]?-]{0,20}", fullmatch=True),
    st.from_regex(r"\{\"[0-9]\": ?[\[{\"a-z0-9:,}\]]{0,20}\}", fullmatch=True),
)


def attempt(environ: Mapping[str, str], *, sandbox: bool) -> Settings | SettingsError:
    """What comes of `environ`; any other exception passes."""
    try:
        return load_settings(environ, sandbox=sandbox)
    except SettingsError as error:
        return error


@given(environ=st.dictionaries(KNOWN | ANY_TEXT, VALUES, max_size=8), sandbox=st.booleans())
@example(environ={"RELAY_TIMEZONE": "a" * 5000}, sandbox=True)
@example(environ={"RELAY_SHOPS": '{"1":' * 5000}, sandbox=True)
@example(environ={"RELAY_TLS_CERT": "x" * 5000, "RELAY_TLS_KEY": "\udcff"}, sandbox=True)
@example(environ={"RELAY_SPLIO_API_KEY_FILE": "\x00"}, sandbox=True)
@example(environ={"RELAY_LOG_URL": "sqlite:///%00"}, sandbox=True)
@example(environ={"RELAY_SPLIO_URL": "https://[::1"}, sandbox=False)
def test_any_environment_gives_settings_or_a_settings_error(
    environ: Mapping[str, str], sandbox: bool
) -> None:
    outcome = attempt(environ, sandbox=sandbox)

    if isinstance(outcome, SettingsError):
        assert len(str(outcome).splitlines()) == len(outcome.problems) > 0
    else:
        assert describe(outcome)


@given(
    secrets=st.dictionaries(
        st.sampled_from(
            [variable(field) + end for field in sorted(SECRETS) for end in ("", "_FILE")]
        ),
        ANY_TEXT.map(lambda text: f"{text}S3CR3T{text}"),
        min_size=1,
    ),
    others=st.dictionaries(KNOWN, VALUES, max_size=3),
    sandbox=st.booleans(),
)
def test_a_secret_is_never_shown(
    secrets: Mapping[str, str], others: Mapping[str, str], sandbox: bool
) -> None:
    outcome = attempt({**others, **secrets}, sandbox=sandbox)

    assert "S3CR3T" not in f"{outcome}{outcome!r}{outcome.warnings}"
    if isinstance(outcome, SettingsError):
        assert outcome.__context__ is None
    else:
        assert "S3CR3T" not in str(describe(outcome))


@given(environ=st.dictionaries(KNOWN, VALUES, max_size=3))
def test_what_describe_says_can_be_set_again(environ: Mapping[str, str]) -> None:
    try:
        settings = load_settings(environ, serving=False)
    except SettingsError:
        return
    rows = {
        row.name: row.value for row in describe(settings) if row.value not in ("set", "not set")
    }
    again = load_settings(rows, serving=False)

    assert describe(again.model_copy(update={"sources": settings.sources})) == describe(
        settings.model_copy(update=dict.fromkeys(SECRETS, None))
    )
