"""The reader of CAMELS-US, as downloaded or unpacked (Newman et al. 2015, Addor et al. 2017).

Here: which basins there are, their catalog, attributes, polygons, and the file of each basin's time
series. The sample dataset is written in the same formats and read by this same reader.
Not here: the text of the time series (records.py), where files are looked for (places.py).
"""

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from aef_dagster.basins import places
from aef_dagster.basins.dataset import GAUGE_ID
from aef_dagster.basins.records import ForcingRecord, parse_forcing, parse_streamflow
from aef_dagster.basins.stores import ArchiveStore, FolderStore
from aef_dagster.errors import DataFileError, UserError

if TYPE_CHECKING:
    import geopandas as gpd

ATTRIBUTE_TABLES = ("topo", "soil", "geol", "vege", "clim")
TEXT_ATTRIBUTES = frozenset(
    (
        "high_prec_timing",
        "low_prec_timing",
        "geol_1st_class",
        "geol_2nd_class",
        "dom_land_cover",
    )
)
# Beyond this the polygon is hardly the gauged basin, and neither are its forcings.
AREA_TOLERANCE = 0.10

# The folder between product and file is the HUC-2 region, which is not the start of the id: only
# the file's name tells the basin. Anchored at the name, so "._01013500..." of a Mac is no match.
_FORCING = re.compile(
    r"(?:^|/)basin_mean_forcing/([^/]+)/(?:[^/]+/)?(\d{8})_lump_[a-z_]+_forcing_leap\.txt$"
)
_STREAMFLOW = re.compile(r"(?:^|/)usgs_streamflow/(?:[^/]+/)?(\d{8})_streamflow_qc\.txt$")


class LayoutItem(NamedTuple):
    """One thing that the dataset needs: where it must be, and whether it is there."""

    what: str
    path: Path
    found: bool
    hint: str


class CamelsUS:
    """CAMELS-US below one folder, with one forcing product.

    Parameters
    ----------
    root
        Folder with the time-series archive (or what it unpacks to), the attribute tables and the
        polygons; places.py says where each is looked for.
    forcing
        `daymet`, `maurer`, `maurer_extended` or `nldas`.
    name
        Name of the dataset, `camels_us` or `sample`.
    """

    def __init__(self, root: Path, forcing: str, name: str = "camels_us"):
        self.root = Path(root)
        self.forcing = forcing
        self.name = name

    @property
    def is_sample(self) -> bool:
        """Whether this is the made-up sample dataset."""
        return self.name == "sample"

    def gauge_ids(self) -> list[str]:
        """Ids of all basins, in the order of the attribute tables."""
        return list(self._table("name").index)

    def catalog(self) -> pd.DataFrame:
        """One row a basin: where it is, how large, and whether its areas agree.

        Returns
        -------
        DataFrame
            gauge_id, name, huc_02, lat, lon (degrees), elev_mean (m), area_km2 (`area_gages2`,
            what discharge is divided by), area_geospa_km2 (of the polygon), area_mismatch
            (geospa / gages2 - 1) and area_flag (mismatch above 10 %).
        """
        names = self._table("name")
        topo = self._table("topo").reindex(names.index)
        mismatch = topo["area_geospa_fabric"] / topo["area_gages2"] - 1
        columns = {
            "name": names["gauge_name"],
            "huc_02": names["huc_02"].str.zfill(2),
            "lat": topo["gauge_lat"],
            "lon": topo["gauge_lon"],
            "elev_mean": topo["elev_mean"],
            "area_km2": topo["area_gages2"],
            "area_geospa_km2": topo["area_geospa_fabric"],
            "area_mismatch": mismatch,
            "area_flag": mismatch.abs() > AREA_TOLERANCE,
        }
        return pd.DataFrame(columns).rename_axis("gauge_id").reset_index()

    def attributes(self) -> pd.DataFrame:
        """Every attribute of topography, soil, geology, vegetation and climate.

        Returns
        -------
        DataFrame
            Indexed by gauge_id; numbers as float64, classes as text, NaN where missing.
            Signatures of the flow are not among them: they are unknown where there is no gauge.
        """
        index = self._table("name").index
        return pd.concat([self._table(table).reindex(index) for table in ATTRIBUTE_TABLES], axis=1)

    def signatures(self) -> pd.DataFrame:
        """Hydrological signatures (camels_hydro), for evaluation only; indexed by gauge_id."""
        return self._table("hydro").reindex(self._table("name").index)

    def polygons(self) -> "gpd.GeoDataFrame":
        """Outline of each basin in EPSG:4326: gauge_id, geometry; basins of the catalog only.

        Raises
        ------
        UserError
            When there are no polygons, or the file cannot be read.
        """
        import geopandas as gpd

        path = places.polygons_file(self.root)
        if path is None:
            raise self._missing(self._polygon_item())
        try:
            shapes = gpd.read_file(path)
        except (RuntimeError, ValueError, OSError) as error:  # pyogrio raises RuntimeError
            raise DataFileError(path, f"the polygons cannot be read: {error}") from None
        # HCDN has the id as a number without its leading zero, Caravan as camels_<id>.
        key = next((name for name in ("hru_id", "gauge_id") if name in shapes.columns), None)
        if key is None:
            raise DataFileError(path, "there is no column hru_id or gauge_id")
        if pd.api.types.is_numeric_dtype(shapes[key]):
            ids = shapes[key].astype("int64").astype(str)
        else:
            ids = shapes[key].astype(str).str.removeprefix("camels_")
        shapes = shapes.assign(gauge_id=ids.str.zfill(8))[["gauge_id", "geometry"]]
        shapes = shapes.set_crs(4326) if shapes.crs is None else shapes.to_crs(4326)
        known = self.gauge_ids()
        shapes = shapes[shapes["gauge_id"].isin(known)].drop_duplicates("gauge_id")
        order = {gauge_id: i for i, gauge_id in enumerate(known)}
        return shapes.sort_values("gauge_id", key=lambda ids: ids.map(order), ignore_index=True)

    def read_forcing(self, gauge_id: str) -> ForcingRecord:
        """Read the forcings of one basin.

        Raises
        ------
        DataFileError
            When the basin's file is broken or not there.
        UserError
            When the dataset has no forcings of this product at all.
        """
        products = self._forcing_files
        if self.forcing not in products:
            raise self._missing(self._forcing_item(), self._products_found())
        store, members = products[self.forcing]
        text = self._read(store, members, gauge_id, f"forcing file ({self.forcing})")
        return parse_forcing(text, store.label(members[gauge_id]), gauge_id)

    def read_streamflow(self, gauge_id: str, area_km2: float) -> pd.DataFrame:
        """Read the flow of one basin in mm/day: date, streamflow.

        Parameters
        ----------
        gauge_id
            The basin.
        area_km2
            Its `area_gages2`: the flow in cubic feet per second is spread over it.

        Raises
        ------
        DataFileError
            When the basin's file is broken or not there.
        UserError
            When the dataset has no streamflow at all.
        """
        if self._streamflow_files is None:
            raise self._missing(self._streamflow_item())
        store, members = self._streamflow_files
        text = self._read(store, members, gauge_id, "streamflow file")
        return parse_streamflow(text, store.label(members[gauge_id]), gauge_id, area_km2)

    def gauged_ids(self) -> set[str]:
        """Basins that have a streamflow file.

        Raises
        ------
        UserError
            When the dataset has no streamflow at all.
        """
        if self._streamflow_files is None:
            raise self._missing(self._streamflow_item())
        return set(self._streamflow_files[1])

    def layout(self) -> list[LayoutItem]:
        """What the dataset needs and whether it is where it must be, for `aef doctor`."""
        items = [self._forcing_item(), self._streamflow_item()]
        # Nothing that is prepared or trained reads the signatures (hydro).
        for table in ("name", *ATTRIBUTE_TABLES):
            path = places.attribute_table(self.root, table)
            expected = self.root / places.ATTRIBUTE_FOLDER / f"camels_{table}.txt"
            hint = f"download camels_{table}.txt of CAMELS-US" if path is None else ""
            items.append(
                LayoutItem(f"attributes ({table})", path or expected, path is not None, hint)
            )
        return [*items, self._polygon_item()]

    def _forcing_item(self) -> LayoutItem:
        what = f"forcings ({self.forcing})"
        try:
            found = self._forcing_files.get(self.forcing)
        except DataFileError as error:
            return LayoutItem(what, Path(error.path), False, error.cause)
        if found is None:
            hint = f"{self._products_found()}; {_DOWNLOAD_TIMESERIES}"
            return LayoutItem(what, self.root / places.ARCHIVE, False, hint)
        store, members = found
        return LayoutItem(what, store.path, True, f"{len(members)} basins")

    def _streamflow_item(self) -> LayoutItem:
        try:
            found = self._streamflow_files
        except DataFileError as error:
            return LayoutItem("streamflow", Path(error.path), False, error.cause)
        if found is None:
            path = self.root / places.ARCHIVE
            return LayoutItem("streamflow", path, False, _DOWNLOAD_TIMESERIES)
        store, members = found
        return LayoutItem("streamflow", store.path, True, f"{len(members)} basins")

    def _polygon_item(self) -> LayoutItem:
        path = places.polygons_file(self.root)
        expected = self.root / places.POLYGON_FOLDER / places.POLYGON_FILES[0]
        hint = "" if path else "download and unpack basin_set_full_res.zip of CAMELS-US"
        return LayoutItem("polygons", path or expected, path is not None, hint)

    def _products_found(self) -> str:
        products = sorted(self._forcing_files)
        if not products:
            return "no forcing product was found"
        return f"forcing products found: {', '.join(products)} (choose with AEF_FORCING)"

    def _missing(self, item: LayoutItem, more: str = "") -> UserError:
        hint = "; ".join(dict.fromkeys(part for part in (more, item.hint) if part))
        return UserError(
            f"{item.what} of {self.name} not found, looked for {item.path}: {hint}. "
            "`aef doctor` lists what is missing and where it must go"
        )

    @cached_property
    def _stores(self) -> list[FolderStore | ArchiveStore]:
        folder = places.timeseries_folder(self.root)
        archive = places.timeseries_archive(self.root)
        stores: list[FolderStore | ArchiveStore] = []
        if folder is not None:
            stores.append(FolderStore(folder))
        if archive is not None:
            stores.append(ArchiveStore(archive))
        return stores

    @cached_property
    def _forcing_files(self) -> dict[str, tuple[FolderStore | ArchiveStore, dict[str, str]]]:
        """For each product where it is, and the path of each basin's file there."""
        products: dict[str, tuple[FolderStore | ArchiveStore, dict[str, str]]] = {}
        for store in self._stores:
            here: dict[str, dict[str, str]] = {}
            for name in store.names:
                if match := _FORCING.search(name):
                    here.setdefault(match[1], {}).setdefault(match[2], name)
            for product, members in here.items():
                products.setdefault(product, (store, members))
        return products

    @cached_property
    def _streamflow_files(self) -> tuple[FolderStore | ArchiveStore, dict[str, str]] | None:
        for store in self._stores:
            members: dict[str, str] = {}
            for name in store.names:
                if match := _STREAMFLOW.search(name):
                    members.setdefault(match[1], name)
            if members:
                return store, members
        return None

    def _read(self, store, members: dict[str, str], gauge_id: str, what: str) -> bytes:
        if gauge_id not in members:
            raise DataFileError(store.path, f"there is no {what} of this basin", gauge_id=gauge_id)
        return store.read(members[gauge_id], gauge_id)

    def _table(self, table: str) -> pd.DataFrame:
        if table not in self._tables:
            path = places.attribute_table(self.root, table)
            if path is None:
                items = {item.what: item for item in self.layout()}
                raise self._missing(items[f"attributes ({table})"])
            self._tables[table] = _read_attribute_table(path)
        return self._tables[table]

    @cached_property
    def _tables(self) -> dict[str, pd.DataFrame]:
        return {}


_DOWNLOAD_TIMESERIES = f"download {places.ARCHIVE} of CAMELS-US, it need not be unpacked"


def _read_attribute_table(path: Path) -> pd.DataFrame:
    """Read a `;`-separated table: ids padded, text stripped, `NA` missing, the rest numbers."""
    try:
        # As text first: an id keeps its zeros, and a broken number can be named with its line.
        frame = pd.read_csv(path, sep=";", dtype=str, keep_default_na=False, encoding="utf-8")
    except (ValueError, OSError) as error:
        raise DataFileError(path, f"not a table separated by ';' ({error})") from None
    frame = frame.rename(columns=str.strip)
    if "gauge_id" not in frame.columns:
        raise DataFileError(path, "the first line lacks the column gauge_id", line=1)
    frame = frame.apply(lambda column: column.str.strip())
    frame = frame.mask(frame.isin(["", "NA", "NaN"]))
    absent = [name for name in _NEEDED.get(path.stem, ()) if name not in frame.columns]
    if absent:
        raise DataFileError(path, f"the first line lacks {', '.join(absent)}", line=1)
    frame["gauge_id"] = frame["gauge_id"].str.zfill(8)
    twice = np.flatnonzero(frame["gauge_id"].duplicated() | frame["gauge_id"].isna())
    if twice.size:
        cause = f"the basin {frame['gauge_id'].iloc[twice[0]]} comes twice or has no id"
        raise DataFileError(path, cause, line=2 + int(twice[0]))
    strange = np.flatnonzero(~frame["gauge_id"].str.fullmatch(GAUGE_ID.pattern))
    if strange.size:
        cause = f"{frame['gauge_id'].iloc[strange[0]]!r} is no gauge id of 8 digits"
        raise DataFileError(path, cause, line=2 + int(strange[0]))
    frame = frame.set_index("gauge_id")
    for name in frame.columns.difference([*TEXT_ATTRIBUTES, "huc_02", "gauge_name"]):
        numbers = pd.to_numeric(frame[name], errors="coerce")
        bad = np.flatnonzero(numbers.isna() & frame[name].notna())
        if bad.size:
            cause = f"{frame[name].iloc[bad[0]]!r} is not a number for {name}"
            raise DataFileError(path, cause, line=2 + int(bad[0]))
        frame[name] = numbers.astype(float)
    return frame


_NEEDED = {
    "camels_name": ("huc_02", "gauge_name"),
    "camels_topo": (
        "gauge_lat",
        "gauge_lon",
        "elev_mean",
        "area_gages2",
        "area_geospa_fabric",
    ),
}
