"""The `aef` command: the main jobs without knowing Dagster; every run shows in its UI afterwards.

Here: arguments, words and tables for a person, of the commands that make, ask and show. Not here:
keeping a home (cli_home.py), embeddings (cli_embeddings.py), what is done (pipeline/session.py).
Heavy modules are imported inside the commands, so that `aef --help` answers at once.
"""

import logging
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from aef_dagster import cli_embeddings, cli_home
from aef_dagster.cli_shared import (
    escaped,
    folded,
    number,
    open_session,
    print_rows,
    print_table,
    stderr,
)
from aef_dagster.errors import DISK_FULL, UserError, is_disk_full

HELP = """Simulate rivers without a gauge.

An ungauged basin borrows: donors like it are picked (by AlphaEarth embedding, by attributes, by
distance), an LSTM is trained on them, and fed with the basin's own weather.

Start with `aef demo`: it runs everything on a small made-up dataset. For real basins set
AEF_DATASET=camels_us and the folders that `aef doctor` asks for, then `aef prepare` and
`aef train`. Look at the results with `aef dev`.
"""

app = typer.Typer(
    help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)  # fmt: skip
app.add_typer(cli_embeddings.app, name="embeddings")
app.add_typer(cli_home.app)

DEMO_STUDY = "demo"
STOPPED = 130


def main() -> None:
    """Entry point: errors a user can mend are one sentence and exit code 2, never a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("alembic", "mlflow", "dagster", "matplotlib", "pyogrio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app()
    except UserError as error:
        told = str(error)
        if is_disk_full(error) and DISK_FULL not in told:  # a step passes on a library's words
            told = f"{told}: {DISK_FULL}"
        _refuse(told)
    except Exception as error:
        if not is_disk_full(error):
            raise
        # Whatever MLflow's database does not take waits in the outbox: what raises is Dagster's.
        database = "sqlite" in str(error).lower()
        what = "Dagster's records of the runs" if database else getattr(error, "filename", None)
        _refuse(f"{what} could not be written: {DISK_FULL}" if what else DISK_FULL)
    except SystemExit as ending:
        if ending.code == STOPPED:  # typer's own answer to Ctrl-C says nothing
            stderr().print("stopped; what is finished is kept, and the same command goes on")
        raise


def _refuse(told: str) -> None:
    stderr().print(f"[bold red]error:[/] {escaped(told)}", highlight=False)
    sys.exit(2)


@app.command()
def demo() -> None:
    """Run the whole way on the built-in sample: files, donors, models, scores, the study.

    The sample is made up (24 basins, 14 years, seeded) and written in the file formats of
    CAMELS-US. In it embeddings know more of the landscape than attributes do: that advantage is
    planted. `AEF_SAMPLE=null` is the same world without it.
    """
    from aef_dagster.basins.dataset import SAMPLE_FORCING

    started = time.monotonic()
    session = open_session(dataset="sample", forcing=SAMPLE_FORCING)
    print_table(session.prepare(), "what is there now")
    scores = session.train(session.basins, _training_config(study=DEMO_STUDY))
    _print_scores(scores)
    found = _study(session, None, [])
    _print_study_places(found)
    _print_addresses(session, time.monotonic() - started)


@app.command()
def doctor(
    alert: Annotated[
        bool, typer.Option("--alert", help="Send a test message by the ways that are set.")
    ] = False,
) -> None:
    """Say what is set, what is missing, and exactly where it must go."""
    from aef_dagster.pipeline.doctor import MISSING, examine, try_channels
    from aef_dagster.settings import load_settings, masked, settings_table

    settings = load_settings()
    if alert:
        took = try_channels(settings)
        print(f"a test message went by {' and '.join(took)}")
        return
    found = examine(settings)
    print_rows(("what", "state", "where, or what to do"), found, "what these settings need")
    rows = [
        (name, masked(str(getattr(settings, name.removeprefix("AEF_").lower()) or "-")), meaning)
        for name, _default, meaning in settings_table()
    ]
    print_rows(("setting", "value", "meaning"), rows, "settings in force")
    missing = [what for what, state, _place in found if state == MISSING]
    if missing:
        print(f"missing: {', '.join(missing)}; see the first table")
        raise typer.Exit(2)
    print("all is there; go on with `aef prepare`")


@app.command()
def prepare() -> None:
    """Read basins, weather, flow and embeddings (all years there are), and rank donors.

    Run it again whenever files change: what is unchanged stays as it is.
    """
    started = time.monotonic()
    session = open_session()
    print_table(session.prepare(), "what is there now")
    _print_addresses(session, time.monotonic() - started)


@app.command()
def train(
    gauge_ids: Annotated[list[str], typer.Argument(help="Gauge ids of the targets.")],
    space: Annotated[
        str,
        typer.Option(
            help="Where similarity picks donors: attributes, aef, distance, random; soft_aef (all "
            "basins, weighted so that k count); fusion (once `aef study` has learned it)."
        ),
    ] = "aef",
    k: Annotated[
        int | None, typer.Option(min=1, help="Donors per target (default 100; 8 in the sample).")
    ] = None,
    representation: Annotated[
        str,
        typer.Option(
            help="What the network is told about a basin: none, attributes17, attributes27, aef, "
            "aef+climate, attributes+aef, aef+subsurface, random, shuffled."
        ),
    ] = "aef+climate",
    recipe: Annotated[
        str,
        typer.Option(help="How it is trained: strong, or paper (as the study did)."),
    ] = "strong",
    budget: Annotated[
        str | None,
        typer.Option(
            help="Size of network and training: tiny (seconds a model), donor (less than a "
            "minute), full (minutes), paper (the study's: hours). Default donor; sample: tiny."
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=50, help="Members of the ensemble; their mean is scored.")
    ] = 1,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Models trained at once (default: one per core).")
    ] = None,
) -> None:
    """Train a model for each target as if it had no gauge, on its most similar donors.

    The target's own flow is used for scoring only. A model that was trained before is not trained
    again. Example: `aef train 01013500 14138900 --space aef --k 100 --seeds 3`

    `--recipe paper` with an ordinary budget trains the study's way as long as `strong` would; what
    both are is in docs/recipes.md. Killed, a training goes on where it was when asked for again.

    `--space` changes the donors only; for a model that knows nothing of embeddings add
    `--space attributes --representation attributes27`.
    """
    started = time.monotonic()
    session = open_session()
    config = _training_config(
        space=space, k=k, representation=representation, recipe=recipe, budget=budget,
        seeds=seeds, workers=workers,
    )  # fmt: skip
    title = config.resolve(session.settings.dataset).title
    config = config.model_copy(update={"study": f"{session.settings.dataset} · {title}"})
    _print_scores(session.train(gauge_ids, config))
    _print_addresses(session, time.monotonic() - started)


@app.command()
def study(
    size: Annotated[
        str | None,
        typer.Option(
            help="sample (a minute), small (minutes; never the study's answer), full (a GPU or a "
            "cluster: thousands of models). Default small; in the sample, sample."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="An experiment to run, by name; may be given several times."),
    ] = None,
) -> None:
    """Run the study: train what its experiments ask for, and write the report.

    Experiments: in_vs_out_of_sample, controls, donor_scaling, cross_regime, regime_model,
    fusion_ablation, temporal_stability, mechanisms. Stopped or killed, the same command goes on:
    trained models are reused.

    The findings are printed; the report, one HTML page that needs no network, lies in the home
    under study/SIZE/index.html.
    """
    started = time.monotonic()
    session = open_session(existing=True)
    found = _study(session, size, only or [])
    seconds = time.monotonic() - started
    _print_study_places(found)
    print(f"RESULT experiments={len(found.readings)} jobs={found.jobs} reused={found.reused} "
          f"seconds={seconds:.0f}")  # fmt: skip


def _print_study_places(found) -> None:
    print(f"\nthe report: {found.page}")
    if found.bundle:
        print(f"the models: {found.bundle}")


def _study(session, size: str | None, only: list[str]):
    """Run a study and print what it found."""
    from aef_dagster.experiments.sizes import size_named
    from aef_dagster.pipeline.config import DEFAULT_SIZE

    chosen = size_named(size or DEFAULT_SIZE[session.settings.dataset])
    found = session.study(chosen, only, lambda words: stderr().print(f"[bold]study:[/] {words}"))
    made = ", ".join(found.marks) or "published data"
    print(f"{chosen.told} Data: {made}.")
    for reading in found.readings:
        print(f"\n{reading.title}")
        for finding in reading.findings:
            print(folded(f"- {finding}"))
        for check in reading.checks:
            if not check.passed:
                print(folded(f"! {check.name}: {check.told}"))
    return found


@app.command()
def simulate(
    gauge_id: Annotated[str, typer.Argument(help="Gauge id of a trained basin.")],
    space: Annotated[
        str | None, typer.Option(help="Only models with donors of this space.")
    ] = None,
    k: Annotated[int | None, typer.Option(min=1, help="Only models with this many donors.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .csv or .parquet file; default in the home."),
    ] = None,
) -> None:
    """Write a trained basin's daily simulation to a file, and print its ends.

    Columns: date, obs and sim in mm/day, sim_std (spread of the ensemble). The newest model that
    fits the options is taken, ensembles first.
    """
    from aef_dagster.pipeline.simulations import newest_simulation, write_simulation

    session = open_session(existing=True)
    (gauge_id,) = session.known([gauge_id])
    found = newest_simulation(
        session.home.checkpoints, session.warehouse, gauge_id, space=space, k=k
    )
    path = output or session.home.root / "simulations" / f"{gauge_id}_{found.job_hash}.csv"
    write_simulation(found.table, path)
    print_rows(*_ends(found.table), f"{gauge_id}, {found.title}; flows in mm/day")
    print(folded(found.expected))
    print(f"{len(found.table):,} days written to {path}")


@app.command()
def dev(
    dagster_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the Dagster pages.")
    ] = 3000,
    mlflow_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the MLflow pages.")
    ] = 5000,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen at. Any other than loopback opens both pages, which ask for no "
            "password, to whoever can reach it: see docs/security.md."
        ),
    ] = "127.0.0.1",
) -> None:
    """Open the Dagster and MLflow pages of this home, with the daemon.

    Ctrl-C ends all of it. Runs at work are cancelled: what they finished is kept, and launched
    again they go on.
    """
    from aef_dagster.pipeline.servers import serve

    session = open_session()
    _ = session.definitions  # what they refuse is told here, not in a log
    session.tracking.setup()
    # The pages must not show dead runs as running: opening the instance marks them.
    session.instance.dispose()
    runs_page = session.tracking.experiment_url().removeprefix(session.settings.mlflow_url)
    serve(session.settings, session.tracking.uri, dagster_port, mlflow_port, runs_page, host)


def _training_config(**choices):
    from pydantic import ValidationError

    from aef_dagster.pipeline.config import TrainingConfig

    try:
        return TrainingConfig(**{k: v for k, v in choices.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--{first['loc'][0]} {first['input']}: {first['msg'].lower()}") from None


def _ends(table) -> tuple[list[str], list[tuple[str, ...]]]:
    """First and last days of a simulation; without the spread where one model has none."""
    shown = table if table["sim_std"].notna().any() else table.drop(columns="sim_std")
    rows = [
        (f"{day.date:%Y-%m-%d}", *(number(value) for value in day[2:]))
        for day in shown.itertuples()
    ]
    if len(rows) > 10:
        rows = [*rows[:4], ("...",) * len(rows[0]), *rows[-4:]]
    return list(shown.columns), rows


# column of the table scores -> heading with its unit
SHOWN_SCORES = {
    "nse": "NSE",
    "kge": "KGE",
    "pearson_r": "r",
    "pbias": "bias %",
    "fhv": "FHV %",
    "rmse": "RMSE mm/d",
}


def _print_scores(scores) -> None:
    rows = [
        (
            row["gauge_id"],
            row["space"],
            str(row["k"]),
            *(number(row[name]) for name in SHOWN_SCORES),
            row["name"],
        )
        for _, row in scores.iterrows()
    ]
    made = ", ".join(sorted({_marks(row) for _, row in scores.iterrows()}))
    title = f"scores of the test period, as if ungauged (data: {made})"
    print_rows(("basin", "space", "k", *SHOWN_SCORES.values(), "name"), rows, title)
    nse = scores["nse"].dropna()
    if len(nse):
        summary = f"median NSE {nse.median():.3f} of {len(nse)} basins" if len(nse) > 1 else (
            f"NSE {nse.iloc[0]:.3f}"
        )  # fmt: skip
        print(
            f"{summary} ({len(scores) - len(nse)} without a score, "
            f"{int((nse < 0).sum())} below 0). All metrics: table scores in DuckDB, and MLflow"
        )


def _marks(row) -> str:
    marks = [name for name in ("sample", "surrogate") if bool(row[name])]
    return ", ".join(marks) or "published data"


def _print_addresses(session, seconds: float) -> None:
    from aef_dagster.pipeline.servers import pages_of

    print(f"done in {seconds:.0f} s; everything is in {session.home.root}")
    print(f"look at it: {pages_of(session.settings)}")
