"""Speed and memory of the platform, measured by hand, against the plain way of doing the same.

`python -m benchmarks` lists them, `python -m benchmarks NAME [--record]` runs one (`make bench`).
A benchmark is a module with `run() -> dict`: it prints a table and returns what RESULT shall say;
the first line of its docstring is its line in the list.

Times are CPU seconds unless a name says otherwise: on a machine that others use as well they are
what stays nearly the same. Ratios are taken in one run, ours and the peer's in turn.
Not here: whether results are right (aef_dagster_tests/).
"""

NAMES = (
    "ingest",
    "cog",
    "update_rate",
    "many_models",
    "memory",
    "scoring",
    "donors_100k",
    "partition_overhead",
    "ablation",
    "skill",
    "time_to_skill",
    "gpu_grouped",
)
