"""Several servers as children of one command: started, watched, revived, and ended together.

Here: processes, their logs, and the signals that end the command. Not here: which servers these
are (servers.py).
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from aef_dagster.errors import UserError

START_LIMIT_S = 180
STOP_LIMIT_S = 30
# Seconds after which a server has shown that it can live: one that ends later was killed, or ran
# out of memory, and is started again. One that ends sooner would only end again.
STEADY_S = 60.0
# Of a log that has grown to the first number of bytes, the second is kept.
LONGEST_LOG, KEPT_OF_LOG = 20_000_000, 5_000_000


class ServerProcesses:
    """Servers by name, each a process group of its own.

    Parameters
    ----------
    folder
        The folder they work in.
    environment
        Their environment.
    kept_open
        File descriptor that they inherit, of a lock that is theirs too.
    steady_s
        Seconds after which a server that ends is started again.
    """

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        kept_open: int,
        steady_s: float = STEADY_S,
    ):
        self._folder, self._steady_s = folder, steady_s
        self._commands: dict[str, list[str]] = {}
        self._since: dict[str, float] = {}
        # Servers that work by a child, and whether that was seen.
        self._parents: dict[str, bool] = {}
        self._environment = environment
        self._kept_open = kept_open
        self._running: dict[str, subprocess.Popen] = {}
        self._logs: dict[str, Path] = {}
        self._signals: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda signum, _frame: self._signals.append(signum))

    @property
    def stopped(self) -> bool:
        """Whether a signal has asked for the end."""
        return bool(self._signals)

    @property
    def hurried(self) -> bool:
        """Whether a second signal has asked for the end."""
        return len(self._signals) > 1

    def __str__(self) -> str:
        """Names and process numbers."""
        return ", ".join(f"{name} {process.pid}" for name, process in self._running.items())

    def start(self, name: str, command: list[str], log: Path, *, by_child: bool = False) -> None:
        """Start a server, which appends to its log; not once a signal asked for the end.

        Parameters
        ----------
        name, command, log
            Of the server.
        by_child
            Whether a child does its work: with that gone, the server counts as ended.
        """
        if self.stopped:
            return
        if by_child or name in self._parents:
            self._parents[name] = False
        self._logs[name], self._commands[name] = log, command
        self._since[name] = time.monotonic()
        with log.open("ab") as out:
            self._running[name] = subprocess.Popen(
                command, cwd=self._folder, env=self._environment, stdout=out, stderr=out,
                stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=(self._kept_open,),
            )  # fmt: skip

    def wait_for(self, name: str, up: Callable[[], bool]) -> None:
        """Wait until a server is up, or a signal has asked for the end.

        Raises
        ------
        UserError
            It was not within three minutes, or one of the servers has ended.
        """
        deadline = time.monotonic() + START_LIMIT_S
        while not self.stopped:
            self._require_alive()
            if up():
                return
            if time.monotonic() > deadline:
                raise UserError(
                    f"{name} did not answer within {START_LIMIT_S} s; see {self._logs[name]}"
                )
            time.sleep(0.1)

    def watch(self, on_revived: Callable[[str], None]) -> None:
        """Wait for a signal that asks for the end; keep servers alive and logs short meanwhile.

        Parameters
        ----------
        on_revived
            Called with a sentence where a server had ended and was started again.

        Raises
        ------
        UserError
            One of the servers has ended, soon after its start.
        """
        while not self.stopped:
            for name, process in list(self._running.items()):
                if not self._is_over(name):
                    continue
                if time.monotonic() - self._since[name] < self._steady_s:
                    raise self._ended(name)
                # What is left of it holds its port.
                _kill_group(process)
                self.start(name, self._commands[name], self._logs[name])
                if not self.stopped:
                    on_revived(
                        f"{name} ended by itself, or was killed, and was started again; the end "
                        f"of {self._logs[name]} may say why"
                    )
            for log in set(self._logs.values()):
                shorten(log)
            time.sleep(0.5)

    def end(self, name: str) -> None:
        """End one server politely, before the others; `stop` sees to one that does not obey."""
        if name not in self._running:  # a signal came before its start
            return
        self._running[name].send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._running[name].wait(STOP_LIMIT_S / 2)

    def stop(self, last: str) -> None:
        """End all with what they started: politely, then by force.

        Parameters
        ----------
        last
            The server that the others ask, and that ends when they have.
        """
        import psutil

        family = []
        for process in self._running.values():
            try:
                parent = psutil.Process(process.pid)
                family += [parent, *parent.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
        deadline = time.monotonic() + STOP_LIMIT_S
        askers = [process for name, process in self._running.items() if name != last]
        for process in askers:
            process.send_signal(signal.SIGINT)
        for process in askers:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0, deadline - STOP_LIMIT_S / 2 - time.monotonic()))
        if last in self._running:
            self._running[last].send_signal(signal.SIGINT)
        _gone, alive = psutil.wait_procs(family, max(0, deadline - time.monotonic()))
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=5)
        for process in self._running.values():
            _kill_group(process)  # children of one that died before

    def _require_alive(self) -> None:
        for name in self._running:
            if self._is_over(name):
                raise self._ended(name)

    def _is_over(self, name: str) -> bool:
        """Whether a server, or the child that works for it, is gone."""
        import psutil

        process = self._running[name]
        if process.poll() is not None:
            return True
        if name not in self._parents:
            return False
        try:
            children = psutil.Process(process.pid).children()
            at_work = any(child.status() != psutil.STATUS_ZOMBIE for child in children)
        except psutil.NoSuchProcess:
            return False  # it ends just now: seen at the next look
        had, self._parents[name] = self._parents[name], self._parents[name] or at_work
        return had and not at_work

    def _ended(self, name: str) -> UserError:
        return UserError(
            f"{name} ended by itself, or a part of it was killed; the end of {self._logs[name]} "
            "says why. Start this again"
        )


def _kill_group(process: subprocess.Popen) -> None:
    """Kill what is left of a server and its children; it leads a process group of its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)


def shorten(log: Path, longest: int = LONGEST_LOG, kept: int = KEPT_OF_LOG) -> None:
    """Cut a log that has grown too long to its last lines, in place.

    Its writers append, so they go on at its new end. What they write in the instant of the cut may
    be lost.

    Parameters
    ----------
    log
        The file; nothing is done if somebody has moved it away.
    longest, kept
        Bytes beyond which it is cut, and bytes that are kept at most.
    """
    if not log.exists() or log.stat().st_size <= longest:
        return
    with log.open("r+b") as file:
        file.seek(-kept, os.SEEK_END)
        file.readline()
        last = file.read()
        file.seek(0)
        file.write(last)
        file.truncate()
