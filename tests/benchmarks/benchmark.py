"""The shape that every benchmark has: what it measures, and its rows in the table of figures."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tests.benchmarks.surroundings import machine, working_folder

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: what was measured, what it should be, what came out and beside what."""

    what: str
    goal: str
    figure: str
    peer: str
    ratio: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """
    One benchmark.

    Args:
        measure: called with `folder` and the options; returns what goes into the JSON.
        rows: the rows of the table, from what `measure` returned.
        options: those of the command line, with their defaults.
    """

    name: str
    about: str
    measure: Callable[..., Result]
    rows: Callable[[Result], Sequence[Row]]
    options: Mapping[str, int | float | str]

    def run(self, **options: int | float | str) -> Result:
        """Measure; options that are not given have their defaults."""
        with working_folder() as folder:
            return self.measure(folder=folder, **{**self.options, **options})

    def show(self) -> None:
        """Measure and print the table, for pytest with `--capture=no`."""
        print(markdown(self.rows(self.run()), machine()))

    def main(self) -> None:
        """The command line of the benchmark alone."""
        parser = argparse.ArgumentParser(description=self.about)
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        for name, default in self.options.items():
            parser.add_argument(
                f"--{name}", type=type(default), default=default, help="default: %(default)s"
            )
        options = vars(parser.parse_args())
        as_json = options.pop("json")
        result = self.run(**options)
        if as_json:
            print(orjson.dumps({"machine": machine(), self.name: result}).decode())
        else:
            print(markdown(self.rows(result), machine()))


def markdown(rows: Sequence[Row], where: Mapping[str, Any]) -> str:
    """The table of figures, ready for the README."""
    lines = [
        f"{where['processor']}, {where['cores']} cores, {where['memory_gib']} GiB, "
        f"{where['system']}, Python {where['python']}.",
        "",
        "| what | goal | figure | beside it in the same run | ratio |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {r.what} | {r.goal} | {r.figure} | {r.peer} | {r.ratio} |" for r in rows]
    return "\n".join(lines)
