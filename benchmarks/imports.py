"""How long importing edgeserve takes, beside `import pulsar`.

    python -m benchmarks.imports [--repeats 10]

Each import is timed inside a fresh process, without the interpreter's own start; the two take turns. The table is
written to benchmarks/results/imports.md.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from benchmarks.harness import options_of, progress, publish, ratios, spread, table

REFERENCE = "import pulsar"
# A name of edgeserve is loaded when it is asked for, so the first says little about what a process pays in the end.
BARS = {
    "import edgeserve": "at most 2",
    "from edgeserve import DataSource": "",
    "from edgeserve import *": "",
}
CODE = "import time; start_s = time.perf_counter(); {}; print(time.perf_counter() - start_s)"


def import_ms(statement: str) -> float:
    command = [sys.executable, "-c", CODE.format(statement)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1e3


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, arguments)
    repeats = max(options.repeats, 2 if options.quick else 10)
    found: dict[str, list[float]] = {statement: [] for statement in (REFERENCE, *BARS)}
    for statement in found:  # the first import may compile, and reads from the disk
        import_ms(statement)
    for _ in range(repeats):
        for statement, taken_ms in found.items():
            taken_ms.append(import_ms(statement))
    progress(f"imports: {repeats} repeats")
    rows = [
        [f"`{statement}`", spread(taken_ms, 1), ratios(taken_ms, found[REFERENCE]), BARS.get(statement, "")]
        for statement, taken_ms in found.items()
    ]
    explanation = (
        f"Inside fresh processes that take turns, {repeats} repeats after one that does not count, without the\n"
        "interpreter's own start; minimum / median / maximum. Ratios are with `import pulsar` of the same repeat."
    )
    publish("imports", "Import", [explanation, table(["", "ms", "ratio", "bar"], rows)], options)


if __name__ == "__main__":
    main()
