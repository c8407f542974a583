"""`python -m benchmarks`: the list; one benchmark; its row in results.md.

Not here: how anything is measured (each benchmark's module, measuring.py).
"""

import argparse
import ast
import importlib
import os
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

from aef_dagster.errors import UserError
from benchmarks import NAMES

HERE = Path(__file__).parent
RESULTS = HERE / "results.md"
LIBRARIES = ("numpy", "pandas", "torch")
INTRODUCTION = """# Benchmark results

One row a run, appended by `python -m benchmarks NAME --record`. Compare rows of one machine only.
`load` is the load average when the run began: near the number of cores, others were using them as
well. What the figures mean is at the top of `benchmarks/NAME.py`.
"""
HEAD = "| date | commit | machine | load | versions | RESULT |\n|---|---|---|---|---|---|\n"


def main() -> int:
    """List the benchmarks, or run one; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=NAMES, help="the benchmark; none lists them")
    parser.add_argument("--record", action="store_true", help="append a row to results.md")
    asked = parser.parse_args()
    if asked.name is None:
        width = max(len(name) for name in NAMES)
        for name in NAMES:
            print(f"{name:<{width}} {first_line(name)}")
        return 0
    load = os.getloadavg()[0]
    try:
        measured = importlib.import_module(f"benchmarks.{asked.name}").run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = " ".join(f"{key}={value}" for key, value in measured.items())
    if asked.record:
        record(RESULTS, asked.name, row(load, result))
    print(f"RESULT {result}")
    return 0


def first_line(name: str) -> str:
    """What a benchmark measures, without importing it: some import torch."""
    docstring = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text())) or ""
    return docstring.splitlines()[0]


def row(load: float, result: str) -> str:
    """One line of results.md."""
    libraries = [f"{name} {version(name)}" for name in LIBRARIES]
    cells = (
        date.today().isoformat(),
        commit(),
        f"{cpu_model()}, {os.cpu_count()} cores",
        f"{load:.1f}",
        ", ".join([f"Python {platform.python_version()}", *libraries]),
        result,
    )
    return "| " + " | ".join(cells) + " |\n"


def record(path: Path, name: str, line: str) -> None:
    """Append a row to the table of a benchmark, which is made where there is none."""
    text = path.read_text() if path.exists() else INTRODUCTION
    title = f"\n## {name}\n"
    if title not in text:
        text += f"{title}\n{HEAD}"
    # A section ends where the next one begins.
    end = text.find("\n## ", text.index(title) + len(title))
    end = len(text) if end < 0 else end
    path.write_text(text[:end] + line + text[end:])


def cpu_model() -> str:
    """Name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str:
    """The commit that was measured, `-dirty` where files differ from it."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=HERE, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "-"


if __name__ == "__main__":
    sys.exit(main())
