"""The commands that keep a home for years: `sync`, `prune`, `backup`, `restore`.

Here: arguments and words. Not here: what is done (storage/backup.py, pipeline/pruning.py,
pipeline/session.py).
"""

from pathlib import Path
from typing import Annotated

import typer

from aef_dagster.cli_shared import open_session, print_rows
from aef_dagster.errors import DISK_FULL, UserError, is_disk_full

app = typer.Typer()


@app.command()
def sync() -> None:
    """Send MLflow what it could not be told while it was away; nothing is sent twice."""
    from aef_dagster.storage.tracking import masked

    session = open_session(existing=True)
    drained = session.sync()
    if drained.error:
        if is_disk_full(UserError(drained.error)):
            raise UserError(f"{drained.sent} sent, {drained.waiting} still wait: {DISK_FULL}")
        uri = masked(session.tracking.uri)
        mending = (
            f"Where the file is damaged, move {uri.removeprefix('sqlite:///')} away: a new one is "
            "made, and is told of models trained before when they are asked for again. Then run "
            "`aef sync` again"
            if uri.startswith("sqlite:///")
            else f"Start MLflow at {uri}, then run `aef sync` again"
        )
        raise UserError(
            f"{drained.sent} sent, {drained.waiting} still wait: {drained.error}. {mending}"
        )
    print(f"{drained.sent} sent, {drained.waiting} waiting")


@app.command()
def prune(
    older_than: Annotated[
        int,
        typer.Option(min=1, help="Days after which the state of an unfinished training goes."),
    ] = 30,
    dry_run: Annotated[
        bool, typer.Option("--dry-run/--yes", help="Only list what would go, or remove it.")
    ] = True,
) -> None:
    """List, and with --yes remove, what is no longer in force.

    That is: models that no current score names, because their data or the training code changed;
    states of trainings that nobody went on with; damaged models that were set aside; what killed
    trainings left half written.

    Kept are all models behind current scores, members of ensembles, and whatever is younger than a
    day. While a training is at work, no model and no state is touched. MLflow keeps its runs.
    """
    from aef_dagster.pipeline.pruning import prune as clean_up

    session = open_session(existing=True)
    done = clean_up(session.home, session.warehouse, older_than, dry_run=dry_run)
    rows = [(kind, f"{count:,}", f"{size:,.1f}") for kind, count, size in done.table()]
    rows.append(("checkpoints in force or of the last day: kept", f"{done.kept:,}",
                 f"{done.kept_bytes / 1e6:,.1f}"))  # fmt: skip
    title = "what could be removed" if dry_run else "what was removed"
    print_rows(("what", "how many", "MB"), rows, f"{title} from {session.home.checkpoints}")
    if done.at_work:
        print("a training is at work, or was killed less than an hour ago: models and states are "
              "left alone")  # fmt: skip
    size = sum(item.n_bytes for item in done.leftovers) / 1e6
    if not done.leftovers:
        print("nothing to remove")
    elif dry_run:
        age = "" if older_than == 30 else f" --older-than {older_than}"
        print(f"nothing was removed; `aef prune{age} --yes` frees {size:,.1f} MB")
    else:
        print(f"{size:,.1f} MB freed; materialize basin_scores and regional_scores to take the "
              "rows of removed models out of the table scores")  # fmt: skip


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="Where to: absent or empty, on another disk.")],
    without_data: Annotated[
        bool,
        typer.Option(
            "--without-data",
            help="Leave out what `aef prepare` makes again.",
        ),
    ] = False,
) -> None:
    """Copy the home into a folder; runs and pages may go on meanwhile.

    Whatever is half written is left out. An MLflow server or PostgreSQL of your own is backed up by
    its own means. `aef restore` puts it back, also at another path.
    """
    from aef_dagster.progress import bar
    from aef_dagster.settings import load_settings
    from aef_dagster.storage.backup import back_up
    from aef_dagster.storage.home import Home

    home = Home(load_settings().home)
    if not (home.root / "world.json").exists():
        raise UserError(f"{home.root} is no home yet: set AEF_HOME to the one to be backed up")
    with bar("backup", 1, "bytes") as progress:
        done = back_up(home, folder, without_data=without_data, tell=progress.at)
    print(f"{done.files:,} files, {done.n_bytes / 1e6:,.1f} MB of {home.root} are in {folder}; "
          "`aef restore` puts them back")  # fmt: skip


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="What `aef backup` made.")],
) -> None:
    """Put a backup back as the home AEF_HOME, which must be absent or empty.

    Whole or not at all. At another path than before, MLflow's database and the outbox are told of
    it. Then run `aef prepare`, with the same settings as before.
    """
    from aef_dagster.progress import bar
    from aef_dagster.settings import load_settings
    from aef_dagster.storage.backup import restore as put_back

    root = load_settings().home
    with bar("restore", 1, "bytes") as progress:
        done = put_back(folder, root, tell=progress.at)
    print(f"{done.files:,} files, {done.n_bytes / 1e6:,.1f} MB are in {root}; now run "
          "`aef prepare`")  # fmt: skip
