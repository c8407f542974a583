"""The tables of the warehouse, column by column, and the views over the lake.

Here: names and types only. Not here: who writes them (pipeline) or how (storage/warehouse.py).
"""

from aef_dagster.embeddings.bands import BANDS
from aef_dagster.embeddings.pooling import STD_BANDS
from aef_dagster.evaluation.metrics import METRICS

_BANDS = ", ".join(f"{band} FLOAT" for band in BANDS)
_SPREADS = ", ".join(f"{band} FLOAT" for band in STD_BANDS)
_METRICS = ", ".join(f"{metric} DOUBLE" for metric in METRICS)

TABLES = {
    "basins": """
        gauge_id VARCHAR PRIMARY KEY, name VARCHAR, huc_02 VARCHAR, lat DOUBLE, lon DOUBLE,
        elev_mean DOUBLE, area_km2 DOUBLE, area_geospa_km2 DOUBLE, area_mismatch DOUBLE,
        area_flag BOOLEAN, sample BOOLEAN""",
    # Each dataset brings its own attribute columns, so they stand in rows here.
    "attributes": """
        gauge_id VARCHAR, attribute VARCHAR, origin VARCHAR, value DOUBLE, category VARCHAR,
        PRIMARY KEY (gauge_id, attribute, origin)""",
    "exclusions": """
        asset VARCHAR, gauge_id VARCHAR, reason VARCHAR, PRIMARY KEY (asset, gauge_id)""",
    "aef_embeddings": f"""
        gauge_id VARCHAR, year INTEGER, {_BANDS}, norm FLOAT, valid_fraction FLOAT,
        pixel_count BIGINT, dataset_version VARCHAR, route VARCHAR, resolution_m FLOAT,
        reducer VARCHAR, bytes_read BIGINT, source_file VARCHAR, source_sha256 VARCHAR,
        content_hash VARCHAR, surrogate BOOLEAN, sample BOOLEAN, fetched_at TIMESTAMP,
        PRIMARY KEY (gauge_id, year)""",
    "basin_embedding": f"""
        gauge_id VARCHAR PRIMARY KEY, n_years INTEGER, years VARCHAR, pooling VARCHAR, norm FLOAT,
        {_BANDS}, {_SPREADS}, route VARCHAR, source_files VARCHAR, surrogate BOOLEAN,
        sample BOOLEAN""",
    "embedding_stability": """
        gauge_id VARCHAR PRIMARY KEY, n_years INTEGER, mean_cosine DOUBLE, drift DOUBLE,
        spread DOUBLE, ratio DOUBLE, slope DOUBLE, p DOUBLE, q DOUBLE, drifts BOOLEAN,
        surrogate BOOLEAN, sample BOOLEAN""",
    "similarity": """
        space VARCHAR, gauge_id VARCHAR, other_id VARCHAR, cosine FLOAT""",
    "donors": """
        space VARCHAR, gauge_id VARCHAR, rank INTEGER, donor_id VARCHAR, cosine FLOAT""",
    # What `donors` held before it last changed.
    "donors_before": """
        space VARCHAR, gauge_id VARCHAR, rank INTEGER, donor_id VARCHAR, cosine FLOAT""",
    "donor_drift": """
        gauge_id VARCHAR PRIMARY KEY, k INTEGER, present VARCHAR, n_shared INTEGER,
        n_entered INTEGER, n_left INTEGER, jaccard DOUBLE, spearman DOUBLE, weighted_tau DOUBLE,
        entered VARCHAR, gone VARCHAR, moved BOOLEAN, surrogate BOOLEAN, sample BOOLEAN""",
    # Labels of every number of clusters tried, so that a study can take fewer than the best.
    "basin_clusters": """
        scheme VARCHAR, k INTEGER, silhouette DOUBLE, best BOOLEAN, gauge_id VARCHAR,
        cluster INTEGER, surrogate BOOLEAN, sample BOOLEAN, PRIMARY KEY (scheme, k, gauge_id)""",
    # What the experiments of the study found, one row a number.
    "estimates": """
        experiment VARCHAR, size VARCHAR, measure VARCHAR, of VARCHAR, against VARCHAR,
        design VARCHAR, k INTEGER, n_basins INTEGER, value DOUBLE, low DOUBLE, high DOUBLE,
        p DOUBLE, surrogate BOOLEAN, sample BOOLEAN""",
    # Expected NSE of basins without a gauge, by the choice that models were trained with.
    "trust": """
        gauge_id VARCHAR, asset VARCHAR, choice VARCHAR, expected_nse DOUBLE, low DOUBLE,
        high DOUBLE, level DOUBLE, nse DOUBLE, held_out BOOLEAN, surrogate BOOLEAN,
        sample BOOLEAN""",
    # Unique by (job_hash, gauge_id, asset, design, fold, learned_from, space, k). Space and k are
    # part of it because equal donors are one job, whoever asked for them. No key: what an asset
    # does not have is NULL.
    "scores": f"""
        job_hash VARCHAR, asset VARCHAR, dataset VARCHAR, design VARCHAR, fold INTEGER,
        learned_from VARCHAR, n_donors INTEGER,
        gauge_id VARCHAR, role VARCHAR, space VARCHAR, k INTEGER, representation VARCHAR,
        recipe VARCHAR, budget VARCHAR, precision VARCHAR, seed INTEGER, n_members INTEGER,
        asked_at TIMESTAMP, current BOOLEAN, period_start DATE,
        period_end DATE, n_days INTEGER, {_METRICS}, surrogate BOOLEAN, sample BOOLEAN,
        mlflow_run_id VARCHAR, dagster_run_id VARCHAR""",
}

# view -> (files below the home, selected columns)
VIEWS = {
    "forcings": ("lake/forcings/*.parquet", "*"),
    "streamflow": ("lake/streamflow/*.parquet", "*"),
    "simulations": (
        "checkpoints/*/simulation.parquet",
        "regexp_extract(filename, '([0-9a-f]+)/simulation.parquet$', 1) AS job_hash, "
        "gauge_id, date::DATE AS date, sim, sim_std, obs",
    ),
}
