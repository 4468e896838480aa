"""Logs: one wide line an event, as JSON for machines or as text for people."""

import json
import logging
import sys
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Any, Final, Literal, TextIO

import orjson

LogFormat = Literal["auto", "json", "human"]

# What every record has of itself comes first in it, before what the caller passed.
_OWN_COUNT: Final = len(vars(logging.makeLogRecord({})))
_ADDED: Final = frozenset(("message", "asctime", "color_message"))  # by other formatters


def configure_logs(
    *, log_format: LogFormat, level: str = "INFO", stream: TextIO | None = None
) -> None:
    """
    Send the service's log lines to `stream` (standard error by default).

    `auto` is text on a terminal and JSON elsewhere. Fields come from `extra`; nothing is
    interpolated into the event's name.
    """
    stream = stream or sys.stderr
    if log_format == "auto":
        log_format = "human" if stream.isatty() else "json"
    # No line tells these, and looking them up costs a sixth of a line ("Optimization" in the
    # logging HOWTO of Python).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if log_format == "json" else HumanFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Their informative lines repeat ours, or name addresses.
    for noisy in ("aiohttp.access", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # While a broker is away it writes several lines a second; ours tell it once.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a caller passed as `extra`."""
    passed = islice(vars(record).items(), _OWN_COUNT, None)
    return {name: value for name, value in passed if name not in _ADDED}


@lru_cache(maxsize=4)
def _second(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")[:-6]


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": f"{_second(int(record.created))}.{int(record.msecs):03}+00:00",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:
            # A huge number, an odd key, half a character: slower, and the line is not lost.
            return json.dumps(line, default=str, skipkeys=True)


class HumanFormatter(logging.Formatter):
    """`12:31:07.245 info  effect.attempted  effect=… outcome=…`."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
        fields = " ".join(f"{name}={_plain(value)}" for name, value in fields_of(record).items())
        text = f"{at} {record.levelname.lower():<7} {record.getMessage():<24} {fields}".rstrip()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return text


def _plain(value: object) -> str:
    """`value` as it is when it is one printable word, else quoted, so that a line stays one."""
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)
