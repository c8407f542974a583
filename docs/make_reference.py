"""Writes docs/reference/: the assets and the commands, as the code defines them.

`.venv/bin/python docs/make_reference.py` writes the pages; a test fails when a committed page is
not what this would write. Here: reading definitions and laying them out in Markdown.
Not here: settings, which docs/settings.md lists.
"""

import inspect
import os
import tempfile
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path

import dagster as dg

FOLDER = Path(__file__).parent / "reference"
COMMAND = ".venv/bin/python docs/make_reference.py"
HEAD = f"""Made from the code by `{COMMAND}`; a test fails when it is stale. Do not
edit it by hand.
"""
# What stands in for partition keys, which depend on the dataset and the day.
PARTITIONS = {
    "aef_embeddings": "year: 2017 to the last full year of the calendar",
    "basin_models": "basin: the gauge ids of the dataset",
    "regional_models": "design/representation: all that a study of any size asks for",
}


def pages() -> dict[str, str]:
    """Name of each page -> its text."""
    return {"assets.md": assets_page(), "commands.md": commands_page()}


def assets_page() -> str:
    """Assets by group, then what starts them."""
    definitions = _definitions()
    lines = [
        "# Reference of assets", "", HEAD,
        "How they hang together is in [architecture.md](../architecture.md), settings of the whole "
        "platform are in [settings.md](../settings.md). What is listed as config is chosen in the "
        "Launchpad, for one run. Defaults below are those of the code location with no setting "
        "changed (the sample).",
    ]  # fmt: skip
    group = None
    for node, owner in _assets(definitions):
        if node.group_name != group:
            group = node.group_name
            lines += ["", f"## Group {group}"]
        lines += _asset_lines(node, owner, definitions)
    lines += _automation_lines(definitions)
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """The `aef` commands, from their own help."""
    import typer

    from aef_dagster.cli import app

    root = typer.main.get_command(app)
    lines = ["# Reference of commands", "", HEAD, str(inspect.cleandoc(root.help or ""))]
    for path, command in _commands(root, ("aef",)):
        lines += _command_lines(path, command)
    return "\n".join(lines) + "\n"


def write(folder: Path = FOLDER) -> None:
    """Write all pages."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text)


def _definitions() -> dg.Definitions:
    """The code location without any setting, whatever the caller's environment says."""
    from aef_dagster.pipeline.build import build_defs
    from aef_dagster.settings import Settings

    before = dict(os.environ)
    for name in before:
        if name.startswith("AEF_"):
            del os.environ[name]
    try:
        return build_defs(Settings(home=Path(tempfile.gettempdir()) / "aef-reference"))
    finally:
        os.environ.update(before)


def _assets(definitions: dg.Definitions) -> Iterator[tuple]:
    """Nodes with the object that makes them: groups as data flows, names within as defined."""
    graph = definitions.resolve_asset_graph()
    groups: dict[str, list] = {}
    for owner in definitions.assets or ():
        if not isinstance(owner, dg.AssetsDefinition):
            continue
        for key in owner.keys:
            node = graph.get(key)
            groups.setdefault(node.group_name, []).append((node, owner))
    for members in groups.values():
        yield from members


def _asset_lines(node, owner: dg.AssetsDefinition, definitions: dg.Definitions) -> list[str]:
    name = node.key.to_user_string()
    graph = definitions.resolve_asset_graph()
    lines = ["", f"### `{name}`", "", *_card(node.description)]
    upstream = ", ".join(f"`{key.to_user_string()}`" for key in sorted(node.parent_keys))
    facts = {
        "made from": upstream or "the dataset's files",
        "partitions": PARTITIONS[name] if node.partitions_def else "",
        "a backfill": _backfill(node.backfill_policy),
        "pool": f"`{', '.join(sorted(node.pools))}`" if node.pools else "",
        "by itself": "made again when the content of an input has changed"
        if node.automation_condition
        else "",
    }
    lines += ["", *(f"- {what}: {told}" for what, told in facts.items() if told)]
    checks = sorted(node.check_keys, key=lambda key: key.name)
    if checks:
        lines += ["", "| check | kind | meaning |", "|---|---|---|"]
        for key in checks:
            spec = graph.get_check_spec(key)
            kind = "blocking" if spec.blocking else "tells"
            lines.append(f"| `{key.name}` | {kind} | {_cell(spec.description)} |")
    config = _config_class(owner)
    if config is not None and config.model_fields:
        lines += ["", "| config | default | limits | meaning |", "|---|---|---|---|"]
        for field_name, field in config.model_fields.items():
            lines.append(
                f"| `{field_name}` | {_default(field.default)} | {_limits(field)} "
                f"| {_cell(field.description)} |"
            )
    return lines


def _automation_lines(definitions: dg.Definitions) -> list[str]:
    repository = definitions.get_repository_def()
    rows = []
    for schedule in repository.schedule_defs:
        on = schedule.default_status == dg.DefaultScheduleStatus.RUNNING
        rows.append((schedule.name, f"schedule, `{schedule.cron_schedule}` UTC", on, schedule))
    for sensor in repository.sensor_defs:
        on = sensor.default_status == dg.DefaultSensorStatus.RUNNING
        rows.append((sensor.name, f"sensor, each {sensor.minimum_interval_seconds or 30} s", on,
                     sensor))  # fmt: skip
    lines = ["", "## What runs by itself", "",
             "With `aef dev`, or another daemon, at work. Switched on the page Automation.", "",
             "| name | what | by default | |", "|---|---|---|---|"]  # fmt: skip
    for name, kind, on, found in rows:
        told = "on" if on else "off"
        lines.append(f"| `{name}` | {kind} | {told} | {_cell(found.description)} |")
    lines += ["", "## Jobs", "", "| job | |", "|---|---|"]
    for job in sorted(definitions.jobs or (), key=lambda job: job.name):
        lines.append(f"| `{job.name}` | {_cell(job.description)} |")
    return lines


def _commands(command, path: tuple[str, ...]) -> Iterator[tuple]:
    for name, found in getattr(command, "commands", {}).items():
        yield (*path, name), found
        yield from _commands(found, (*path, name))


def _command_lines(path: tuple[str, ...], command) -> list[str]:
    lines = ["", f"## `{' '.join(path)}`", "", inspect.cleandoc(command.help or "")]
    params = [param for param in command.params if param.name != "help"]
    if params:
        lines += ["", "| argument | default | meaning |", "|---|---|---|"]
        for param in params:
            is_option = param.param_type_name == "option"
            shown = [*param.opts, *param.secondary_opts] if is_option else [param.name.upper()]
            default = "required" if param.required else _default(param.default)
            lines.append(
                f"| `{'`, `'.join(shown)}` | {default} | {_cell(getattr(param, 'help', ''))} |"
            )
    return lines


def _config_class(owner: dg.AssetsDefinition) -> type[dg.Config] | None:
    function = getattr(owner.op.compute_fn, "decorated_fn", None)
    found = inspect.signature(function).parameters.get("config") if function else None
    return found.annotation if found is not None else None


def _backfill(policy) -> str:
    if policy is None:
        return ""
    most = policy.max_partitions_per_run
    return "one run for all partitions" if most is None else f"runs of {most} partitions"


def _limits(field) -> str:
    words = {"Ge": "at least", "Gt": "above", "Le": "at most", "Lt": "below"}
    found = [
        f"{words[kind]} {getattr(limit, kind.lower())}"
        for limit in field.metadata
        if (kind := type(limit).__name__) in words
    ]
    options = _options(field.annotation)
    return ", ".join([*found, *(f"`{name}`" for name in options)])


def _options(annotation) -> list[str]:
    kinds = [annotation, *getattr(annotation, "__args__", ())]
    return [
        str(member.value)
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, Enum)
        for member in kind
    ]


def _default(value) -> str:
    if isinstance(value, Enum):
        value = value.value
    if value is None or value == "" or value == []:
        return "none"
    return f"`{value}`"


def _card(text: str | None) -> Iterable[str]:
    return inspect.cleandoc(text or "").splitlines()


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    write()
    print(f"written: {', '.join(str(path) for path in sorted(FOLDER.glob('*.md')))}")
