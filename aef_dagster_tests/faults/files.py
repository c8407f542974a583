"""A small disk that really fills up, damages to files, and commands in the face of both, for tests.

Not here: the faults themselves (test_files_*.py), homes and processes (live.py, conftest.py).
"""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from aef_dagster_tests.deploy.processes import program
from aef_dagster_tests.faults.live import environment

LIMIT_S = 120
FULL = "the disk is full; free some space and run this again"


class SmallDisk:
    """A tmpfs of its own in a mount namespace of its own: no root is needed, nothing is left.

    Parameters
    ----------
    folder
        Where processes started by `start` see it.
    mb
        Its size.
    """

    def __init__(self, folder: Path, mb: int = 64):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        # It ends with its standard input, so also when the tests are killed.
        script = f'mount -t tmpfs -o size={mb}m none "$0" && echo mounted && exec cat'
        self._holder = subprocess.Popen(
            ["unshare", "-Urm", "sh", "-c", script, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if self._holder.stdout.readline() != "mounted\n":
            reason = self._holder.stderr.read().strip()
            self.close()
            pytest.skip(f"no disk of its own can be mounted here: {reason}")
        # The disk as this process sees it.
        self.seen = Path(f"/proc/{self._holder.pid}/root") / str(folder).lstrip("/")

    def start(self, command: list[str], variables: dict[str, str]) -> subprocess.Popen:
        """A process that sees the disk."""
        enter = ["nsenter", "--target", str(self._holder.pid), "--user", "--mount",
                 "--preserve-credentials", "--wdns=/", "--"]  # fmt: skip
        return subprocess.Popen(
            [*enter, *command], env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    @property
    def free(self) -> int:
        """Bytes that are left."""
        found = os.statvfs(self.seen)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Fill it but for some bytes."""
        with (self.seen / "filler").open("ab") as filler, suppress(OSError):
            while (left := self.free - leave) > 0:
                filler.write(bytes(min(left, 2**20)))
                filler.flush()

    def empty(self) -> None:
        """Free the space again."""
        (self.seen / "filler").unlink()

    def close(self) -> None:
        """End the namespace, and the disk with it."""
        self._holder.stdin.close()
        self._holder.wait(LIMIT_S)
        self._holder.stdout.close()
        self._holder.stderr.close()


def on_disk(home, disk: SmallDisk, folder: Path) -> None:
    """Let a folder of a home lie on a disk."""
    if folder.is_dir():
        shutil.copytree(folder, disk.seen, dirs_exist_ok=True)
        shutil.rmtree(folder)
    folder.symlink_to(disk.folder)


def told_by(process: subprocess.Popen, code: int) -> str:
    """What a command said, in one line, once it has ended with a code; never a traceback."""
    try:
        told, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert "Traceback" not in told, told
    assert process.returncode == code, told
    return " ".join(told.split())


def aef(home, *arguments: str, code: int = 0, disk: SmallDisk | None = None, **more: str) -> str:
    """What an `aef` command said, in one line, having ended with a code and no traceback."""
    variables, command = environment(home, **more), [program("aef"), *arguments]
    if disk is not None:
        return told_by(disk.start(command, variables), code)
    process = subprocess.Popen(
        command, env=variables, cwd=home.root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return told_by(process, code)


def damages(content: bytes, n: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Ways in which a file goes bad: cut short, zeroed, overwritten, a bit flipped.

    Parameters
    ----------
    content
        The whole file.
    n
        How many of those that are drawn by the seed.

    Yields
    ------
    tuple
        What was done, and what is left of the file.
    """
    ways = _ways(content, n, random.Random(seed))
    yield from ((what, left) for what, left in ways if left != content)


def _ways(content: bytes, n: int, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    size = len(content)
    yield "empty", b""
    yield "its head zeroed", bytes(min(4096, size)) + content[4096:]
    yield "its middle zeroed", content[: size // 3] + bytes(size // 3) + content[2 * (size // 3) :]
    yield "cut in half", content[: size // 2]
    yield "its last byte lost", content[:-1]
    yield "something else", b"this is something else\n" * 100
    for _ in range(n):
        at, length = rng.randrange(size), rng.choice([1, 1, 16, 512])
        left = bytearray(content)
        if length == 1:
            left[at] ^= 1 << rng.randrange(8)
        else:
            part = rng.randbytes(length)[: size - at]
            left[at : at + length] = part
        yield f"{length} bytes from {at} on", bytes(left)
