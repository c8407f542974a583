"""Every setting of the platform: one class, read once from `AEF_*` environment variables.

Here: names, defaults, limits and meanings of the settings, and their conversion to absolute
paths against the folder the command was called from. `docs/` and `aef doctor` print this table.
Not here: choices of one training (pipeline/config.py) and what is inside a home (storage/home.py).
"""

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from aef_dagster.errors import UserError

PREFIX = "AEF_"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# `user:password@`, in which SQLAlchemy allows `/` and `#` and a parser of addresses does not, or
# `?password=`. The last @ counts: rather too much is hidden than too little.
_PASSWORD = re.compile(
    r"://([^:/@\s]*):[^\s]*@|([?&](?:password|passwd|token|secret)=)[^&#\s]*", re.I
)


def masked(text: str) -> str:
    """A text without the passwords of addresses in it.

    Parameters
    ----------
    text
        An address, or a sentence with some.

    Returns
    -------
    str
        `***` for each password; equal to `text` where there is none.
    """
    return _PASSWORD.sub(lambda m: f"{m[2]}***" if m[2] else f"://{m[1]}:***@", text)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - `..` collapsed, links kept


def _absolute_store(uri: str) -> str:
    prefix = "sqlite:///"
    if "://" not in uri:
        raise ValueError("MLflow no longer takes folders; use sqlite:///FILE or a server's address")
    return (
        prefix + str(_absolute(Path(uri.removeprefix(prefix)))) if uri.startswith(prefix) else uri
    )


def _link(address: str) -> str:
    if masked(address) != address:
        raise ValueError("links are shown to everybody: leave the password out, the page asks")
    return address


def _webhook(address: SecretStr) -> SecretStr:
    parts = urlsplit(address.get_secret_value())
    if not parts.hostname or not (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    ):
        raise ValueError("use the whole https address (http on this machine only)")
    return address


def _mail_server(address: str) -> str:
    parts = urlsplit(address)
    if parts.password is not None:
        raise ValueError("leave the password out of it and set AEF_ALERT_SMTP_PASSWORD")
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname or parts.port == 0:
        raise ValueError("write it as smtp://USER@HOST:587 (STARTTLS), or smtps://USER@HOST:465")
    return address


def _page(address: str) -> str:
    if urlsplit(address).scheme not in ("http", "https"):
        raise ValueError("write the address of a page, such as http://127.0.0.1:8265")
    return address


def _addresses(text: str) -> str:
    found = [part.strip() for part in text.split(",")]
    # A line break in a header would begin another one.
    if not all("@" in part and part.isprintable() and " " not in part for part in found):
        raise ValueError("write e-mail addresses with a comma between")
    return ",".join(found)


Store = Annotated[str, AfterValidator(_absolute_store)]
Link = Annotated[str, AfterValidator(_link)]
Folder = Annotated[Path, AfterValidator(_absolute)]


class Settings(BaseSettings):
    """Settings of one process. Each field is the environment variable `AEF_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True)

    dataset: Literal["sample", "camels_us"] = Field(
        "sample", description="Which basins: the built-in made-up `sample`, or `camels_us`."
    )
    sample: Literal["planted", "null"] = Field(
        "planted",
        description="World of the sample: embeddings that know the landscape, or its `null` twin.",
    )
    data_dir: Folder | None = Field(
        None, description="Folder with the CAMELS-US files as downloaded, or unpacked."
    )
    forcing: Literal["daymet", "maurer", "maurer_extended", "nldas"] = Field(
        "daymet", description="Forcing product to read (the sample has `daymet` only)."
    )
    source: Literal["table", "cog", "earth_engine"] = Field(
        "table",
        description="Route to the AlphaEarth embeddings: `table` (files), `cog` (public tiles, no "
        "account), `earth_engine` (a Google Cloud project).",
    )
    embeddings_dir: Folder | None = Field(
        None, description="File or folder of embedding tables (CSV or Parquet) for `table`."
    )
    new_years_cron: str = Field(
        "0 6 * * 1",
        description="When the schedule `new_aef_years` asks the source for new years (cron, UTC).",
    )
    cog_addresses: str = Field(
        "https://storage.googleapis.com/alphaearth_foundations/satellite_embedding/v1/annual,"
        "https://data.source.coop/tge-labs/aef/v1/annual",
        description="Where `cog` finds the tiles: addresses with a comma between, the best first.",
    )
    cog_connections: int = Field(
        16, ge=1, le=256, description="Requests that `cog` has under way at once."
    )
    ee_project: str | None = Field(
        None, description="Google Cloud project with the Earth Engine API, for `earth_engine`."
    )
    ee_key_file: Folder | None = Field(
        None,
        description="Key file of a service account; without one, the credentials of this machine "
        "(`gcloud auth application-default login` or `earthengine authenticate`).",
    )
    ee_scale: float = Field(
        1000.0, ge=10, le=10_000, description="Pixel size of `earth_engine`, metres (study: 1000)."
    )
    ee_url: str | None = Field(
        None, description="Another address of Earth Engine, https or on this machine."
    )
    home: Folder = Field(
        Path("var"),
        description="Where everything made is kept. One home holds one dataset.",
        validate_default=True,
    )
    reference_dir: Folder | None = Field(
        None, description="Folder with published scores (`published_nse_531.csv`), for comparison."
    )
    dagster_storage: Literal["sqlite", "postgres"] = Field(
        "sqlite",
        description="Where Dagster keeps its history: files in the home, or PostgreSQL, whose "
        "address is in `DAGSTER_PG_HOST` and its like (deploy/README.md).",
    )
    tracking_uri: Store | None = Field(
        None, description="MLflow tracking store; by default the SQLite file in the home."
    )
    mlflow_url: Link = Field(
        "http://127.0.0.1:5000", description="Address of the MLflow pages, used in links."
    )
    dagster_url: Link = Field(
        "http://127.0.0.1:3000", description="Address of the Dagster pages, used in links."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to train. `cuda` never falls back to the CPU silently."
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="Products of the LSTM in training. `bf16` is faster where the processor has "
        "them (Intel AMX, AVX512-BF16, GPUs); its models are others, and marked so.",
    )
    executor: Literal["in_process", "multiprocess", "ray", "k8s"] = Field(
        "in_process",
        description="Dagster executor of runs that the pages or the daemon start.",
    )
    training_slots: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Runs that may train at once; by default one per GPU of this machine, or one. "
        "For a cluster, the number of its devices.",
    )
    step_cpus: int = Field(
        1,
        ge=1,
        le=1024,
        description="CPUs that a training step asks for from `ray` or `k8s`; it trains as many "
        "models at once.",
    )
    step_gpus: int | None = Field(
        None,
        ge=0,
        le=64,
        description="GPUs that a training step asks for from `ray` or `k8s` (default: 1 with "
        "AEF_DEVICE=cuda, else 0), and that a run of the pages or the daemon takes of those of its "
        "machine (default: 1).",
    )
    ray_address: Annotated[str, AfterValidator(_page)] = Field(
        "http://127.0.0.1:8265", description="Address of the Ray head's dashboard, for `ray`."
    )
    k8s_node_selector: str = Field(
        "{}", description="Labels of the nodes that may train, as a JSON object, for `k8s`."
    )
    k8s_tolerations: str = Field(
        "[]", description="Tolerations of the pods that train, as a JSON list, for `k8s`."
    )

    alert_webhook: Annotated[SecretStr, AfterValidator(_webhook)] | None = Field(
        None,
        description="Where failures are told: an incoming webhook of Slack, Mattermost or the "
        "like. Its address is a secret, and shown nowhere.",
    )
    alert_email_to: Annotated[str, AfterValidator(_addresses)] | None = Field(
        None, description="Whom failures are told: e-mail addresses with a comma between."
    )
    alert_smtp: Annotated[str, AfterValidator(_mail_server)] | None = Field(
        None,
        description="Server for these e-mails: `smtp://USER@HOST:587` (STARTTLS, which only this "
        "machine may lack) or `smtps://USER@HOST:465`; an @ in USER is written %40.",
    )
    alert_smtp_password: SecretStr | None = Field(
        None, description="Password of USER at that server; a secret, shown nowhere."
    )

    @model_validator(mode="after")
    def _whole_alerts(self) -> Self:
        if bool(self.alert_email_to) != bool(self.alert_smtp):
            raise UserError(
                "AEF_ALERT_EMAIL_TO and AEF_ALERT_SMTP go together: set both, or neither"
            )
        return self

    def export(self) -> None:
        """Put the settings, paths absolute, into this process's environment for its children."""
        for name, value in self.model_dump().items():
            if value is not None:
                shown = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
                os.environ[PREFIX + name.upper()] = shown
        os.environ["DAGSTER_HOME"] = str(self.home / "dagster")


def load_settings(**overrides) -> Settings:
    """Read the settings from the environment.

    Parameters
    ----------
    **overrides
        Values by field name that win over the environment.

    Raises
    ------
    UserError
        A value that is not allowed, or an `AEF_` variable that no setting has (a misspelling
        would otherwise be obeyed by nobody and noticed by nobody).
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known and not name.startswith("AEF_TEST_"):
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"
            raise UserError(f"{name} is set, but there is no such setting; {hint}")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        told = first["msg"].removeprefix("Value error, ")
        # A secret, or one in the wrong place, is not always known by its form.
        secret = name.startswith(f"{PREFIX}ALERT_") or "@" in str(first["input"])
        given = "" if secret else "=" + masked(repr(first["input"]))
        raise UserError(f"{name}{given} cannot be used: {told}") from None


def settings_table() -> list[tuple[str, str, str]]:
    """Rows of (variable, default, meaning), in the order of the class."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else str(field.default)
        rows.append((PREFIX + name.upper(), default, field.description or ""))
    return rows
