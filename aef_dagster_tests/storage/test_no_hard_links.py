"""A disk that knows no hard links, as exFAT and many a network share: the kernel refuses them."""

import platform
import subprocess
import sys

import pytest

# Where a program lets the kernel refuse it `link` and `linkat`, as such a disk would.
CALLS = {"x86_64": (86, 265), "aarch64": (37,)}
WRITE = """
import ctypes, errno, os, struct, sys
from pathlib import Path

from aef_dagster.storage.warehouse import Warehouse

LOAD_CALL, IF_EQUAL, ANSWER = 0x20, 0x15, 0x06
refused, allowed = 0x00050000 | int(sys.argv[2]), 0x7FFF0000
steps = [(LOAD_CALL, 0, 0, 0)]
for number in map(int, sys.argv[3:]):
    steps += [(IF_EQUAL, 0, 1, number), (ANSWER, 0, 0, refused)]
steps.append((ANSWER, 0, 0, allowed))
rules = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(rules))
libc = ctypes.CDLL(None, use_errno=True)
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2
if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(SECCOMP, FILTER, program):
    sys.exit(77)
path = Path(sys.argv[1])
path.touch()
try:
    os.link(path, path.with_name("linked"))
except OSError as error:
    assert error.errno == int(sys.argv[2]), error
else:
    sys.exit(77)
store = Warehouse(path.with_name("warehouse.duckdb"))
with store.write() as connection:
    connection.execute("INSERT INTO basins (gauge_id) VALUES ('01013500')")
print(store.count("basins"), sorted(each.name for each in path.parent.iterdir()))
"""


@pytest.mark.parametrize("name", ["EPERM", "EOPNOTSUPP"])
def test_the_first_write_makes_the_warehouse_without_them(tmp_path, name):
    import errno

    if platform.system() != "Linux" or platform.machine() not in CALLS:
        pytest.skip("the numbers of the system calls are known for Linux on x86_64 and aarch64")
    answer = subprocess.run(
        [sys.executable, "-c", WRITE, str(tmp_path / "file"), str(getattr(errno, name)),
         *map(str, CALLS[platform.machine()])],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if answer.returncode == 77:
        pytest.skip("this system lets no program refuse itself a system call")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "1 ['file', 'warehouse.duckdb']"
