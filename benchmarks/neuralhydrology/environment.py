"""The environment that neuralhydrology runs in, apart from that of the project.

Made the first time it is asked for, in `.venv-neuralhydrology`, and again when requirements.txt
has changed. Not here: what is run in it (train.py).
"""

import subprocess
import sys
from pathlib import Path

from aef_dagster.errors import UserError
from benchmarks.measuring import CHECKOUT

FOLDER = CHECKOUT / ".venv-neuralhydrology"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def peer_python() -> Path:
    """The interpreter of the environment.

    Raises
    ------
    UserError
        A package cannot be installed.
    """
    python, made_of = FOLDER / "bin" / "python", FOLDER / "made-of.txt"
    wanted = REQUIREMENTS.read_text()
    if made_of.is_file() and made_of.read_text() == wanted:
        return python
    print(f"making {FOLDER.name} (once, about a minute)", flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(FOLDER)])
    (FOLDER / ".gitignore").write_text("*\n")
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "-q"]
    uv += ["--python", str(FOLDER)]
    torch = next(line for line in wanted.splitlines() if line.startswith("torch=="))
    try:
        # uv knows where the builds of torch without CUDA are; where it cannot reach them, pip's
        # own configuration decides, as in the Makefile.
        _run([*uv, "--torch-backend", "cpu", torch])
    except UserError:
        _run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", torch])
    _run([*uv, "--compile-bytecode", "-r", str(REQUIREMENTS)])
    made_of.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(
            f"the environment of neuralhydrology could not be made, {' '.join(command)} failed: "
            f"{done.stderr.strip()[-500:]}; mend that and run the benchmark again"
        )
