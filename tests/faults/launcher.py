"""
`python -m tests.faults.launcher ROLE [--kill-at STEP N MARKER]`: the service, killed at a step.
With `--freeze-at` it stands still there instead (SIGSTOP), until it is told to go on.
With `--keep-log` it removes nothing from an embedded log that was read.

The hook is an argument of `open_runtime` that nobody else passes.
"""

import asyncio
import os
import signal
import sys
import threading
from argparse import ArgumentParser
from dataclasses import replace
from typing import Final

from service.consumer_setup import Pace
from service.domain.ports import Step, StepHook, no_step
from service.domain.records import Topic
from service.runtime import open_runtime
from service.settings import load_settings
from service.stores import DEFAULT_RETENTION_S, Role
from service.supervisor import Death
from service.telemetry.logs import configure_logs

# What otherwise happens once a minute, or after a week, comes while a test still runs.
_BRISK: Final = Pace(
    holds_every_s=0.01,
    holds_idle_s=0.1,
    chores_every_s=0.1,
    tidy_rounds=1,
    log_retention_s=dict.fromkeys(Topic, 0.2),
)
# Only where it is looked at: what the slow reader has seen is not sent again, and a service that
# would send it otherwise looked right.
_READS_CREDITS: Final = replace(_BRISK, seen_every_s=0.05, seen_idle_s=0.1)

_SIGNALS: Final = {"kill_at": signal.SIGKILL, "freeze_at": signal.SIGSTOP}


def hit_at(step: Step, *, nth: int, marker_path: str, number: signal.Signals) -> StepHook:
    """A hook that sends the process a signal the `nth` time that it gets to `step`."""
    lock = threading.Lock()
    marker = os.open(marker_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    passed = 0

    def hook(reached: Step) -> None:
        nonlocal passed
        if reached is not step:
            return
        # Steps are reached on the event loop and on the threads that commit.
        with lock:
            passed += 1
            if passed == nth:
                os.write(marker, f"{step.value} {nth}".encode())
                os.kill(os.getpid(), number)

    return hook


async def _serve(role: Role, step: StepHook, pace: Pace) -> Death | None:
    settings = load_settings(os.environ, takes_webhooks=role.receives, takes_effect=role.consumes)
    configure_logs(log_format=settings.log_format, level=settings.log_level.upper())
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with open_runtime(settings, role=role, step=step, pace=pace) as runtime:
        return await runtime.run(stop)


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM (0), the death of a worker (1) or the step."""
    parser = ArgumentParser()
    parser.add_argument("role", type=Role)
    for option in _SIGNALS:
        parser.add_argument(f"--{option.replace('_', '-')}", nargs=3)
    parser.add_argument("--keep-log", action="store_true")
    chosen = vars(parser.parse_args(arguments))
    hook: StepHook = no_step
    pace = replace(_BRISK, log_retention_s=DEFAULT_RETENTION_S) if chosen["keep_log"] else _BRISK
    for option, number in _SIGNALS.items():
        if chosen[option] is not None:
            step, nth, marker_path = chosen[option]
            hook = hit_at(Step(step), nth=int(nth), marker_path=marker_path, number=number)
            if Step(step) is Step.CREDITS_SEEN:
                pace = _READS_CREDITS
    death = asyncio.run(_serve(chosen["role"], hook, pace))
    return 0 if death is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
