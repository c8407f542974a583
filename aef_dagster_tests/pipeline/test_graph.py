"""The asset graph as a whole: an accidental rewiring shows here."""

import dagster as dg
import pytest

from aef_dagster.experiments.designs import DESIGNS
from aef_dagster.models.statics import REPRESENTATIONS
from aef_dagster.pipeline.build import build_defs
from aef_dagster.settings import load_settings

# asset -> (group, upstream, partitions)
GRAPH = {
    "basins": ("basins", [], None),
    "forcings": ("basins", ["basins"], None),
    "streamflow": ("basins", ["basins"], None),
    "attributes": ("basins", ["basins", "forcings"], None),
    "aef_embeddings": ("embeddings", ["basins"], "year"),
    "basin_embedding": ("embeddings", ["aef_embeddings"], None),
    "embedding_stability": ("embeddings", ["aef_embeddings", "basins"], None),
    "similarity/attributes": ("similarity", ["attributes"], None),
    "similarity/aef": ("similarity", ["basin_embedding"], None),
    "similarity/distance": ("similarity", ["basins"], None),
    "similarity/random": ("similarity", ["basins"], None),
    "donors/attributes": ("similarity", ["similarity/attributes"], None),
    "donors/aef": ("similarity", ["similarity/aef"], None),
    "donors/distance": ("similarity", ["similarity/distance"], None),
    "donors/random": ("similarity", ["similarity/random"], None),
    "similarity/fusion": ("similarity", ["regional_scores"], None),
    "donors/fusion": ("similarity", ["similarity/fusion"], None),
    "donor_drift": ("similarity", ["donors/aef"], None),
    "basin_clusters": ("similarity", ["attributes", "basin_embedding"], None),
    "basin_models": (
        "models",
        ["attributes", "basin_embedding", "donors/aef", "donors/attributes", "donors/distance",
         "donors/random", "forcings", "streamflow"],
        "basin",
    ),
    "regional_models": (
        "models",
        ["attributes", "basin_clusters", "basin_embedding", "forcings", "streamflow"],
        "design",
    ),
    "basin_scores": ("evaluation", ["basin_models"], None),
    "regional_scores": ("evaluation", ["regional_models"], None),
    "trust": ("evaluation", ["basin_scores", "regional_scores", "similarity/aef"], None),
    "in_vs_out_of_sample": ("experiments", ["regional_scores"], None),
    "controls": ("experiments", ["regional_scores"], None),
    "donor_scaling": ("experiments", ["basin_clusters", "basin_scores"], None),
    "cross_regime": ("experiments", ["basin_clusters", "regional_scores"], None),
    "regime_model": ("experiments", ["regional_scores"], None),
    "fusion_ablation": ("experiments", ["regional_scores"], None),
    "temporal_stability": (
        "experiments", ["aef_embeddings", "embedding_stability", "regional_scores"], None,
    ),
    "mechanisms": (
        "experiments",
        ["basin_clusters", "regional_scores", "similarity/aef", "similarity/attributes",
         "similarity/distance", "similarity/fusion", "similarity/random"],
        None,
    ),
    "study_report": (
        "report",
        ["controls", "cross_regime", "donor_scaling", "fusion_ablation", "in_vs_out_of_sample",
         "mechanisms", "regime_model", "temporal_stability", "trust"],
        None,
    ),
    "study_bundle": ("report", ["regional_scores"], None),
}  # fmt: skip

SPACES = ("attributes", "aef", "distance", "random", "fusion")
EXPERIMENTS = ("in_vs_out_of_sample", "controls", "donor_scaling", "cross_regime", "regime_model",
               "fusion_ablation", "temporal_stability", "mechanisms")  # fmt: skip

CHECKS = {
    "forcings": {"all_basins_readable"},
    "streamflow": {"all_basins_readable"},
    "aef_embeddings": {"complete_and_finite", "coverage", "same_edition", "like_its_neighbour",
                       "newest_year"},
    "basin_embedding": {"unit_norm"},
    **{f"similarity/{space}": {"valid_matrix"} for space in SPACES},
    **{f"donors/{space}": {"leak_free"} for space in SPACES},
    "basin_models": {"no_leakage", "complete"},
    "regional_models": {"no_leakage"},
    "basin_scores": {"every_gauged_basin_scored", "mostly_skilful"},
    "trust": {"coverage_holds"},
    **{name: {"checks_held"} for name in EXPERIMENTS},
    "study_bundle": {"simulates_as_trained"},
}  # fmt: skip

# a partition key -> what the partitions are
KINDS = {"2017": "year", "00901001": "basin", "folds/aef": "design"}


@pytest.fixture(scope="module")
def definitions(tmp_path_factory):
    return build_defs(load_settings(home=tmp_path_factory.mktemp("home")))


def test_definitions_are_loadable(definitions):
    dg.Definitions.validate_loadable(definitions)


def test_keys_groups_and_dependencies(definitions):
    graph = definitions.resolve_asset_graph()
    found = {}
    for node in graph.asset_nodes:
        keys = node.partitions_def.get_partition_keys() if node.partitions_def else []
        kind = next((KINDS[key] for key in keys if key in KINDS), None)
        assert (kind is None) == (node.partitions_def is None), node.key
        upstream = sorted(key.to_user_string() for key in node.parent_keys)
        found[node.key.to_user_string()] = (node.group_name, upstream, kind)
    assert found == GRAPH


def test_checks(definitions):
    found: dict[str, set[str]] = {}
    for key in definitions.resolve_asset_graph().asset_check_keys:
        found.setdefault(key.asset_key.to_user_string(), set()).add(key.name)
    assert found == CHECKS


def test_every_asset_has_a_card_owner_kind_and_version(definitions):
    for node in definitions.resolve_asset_graph().asset_nodes:
        name = node.key.to_user_string()
        assert node.description and len(node.description) > 60, name
        assert node.owners == ["team:hydrology"], name
        assert node.kinds, name
        assert node.code_version, name


def test_partitions_are_the_basins_of_the_dataset(definitions, real_data, tmp_path):
    settings = load_settings(dataset="camels_us", data_dir=real_data / "camels_us", home=tmp_path)
    graph = build_defs(settings).resolve_asset_graph()
    keys = graph.get(dg.AssetKey("basin_models")).partitions_def.get_partition_keys()
    assert len(keys) == 671
    assert keys[0] == "01013500"


def test_partitions_of_regional_models_are_what_plans_ask_for(definitions):
    """They stand in the history of every home: one that goes, or changes its name, is lost."""
    graph = definitions.resolve_asset_graph()
    keys = graph.get(dg.AssetKey("regional_models")).partitions_def.get_partition_keys()
    assert len(keys) == len(set(keys))
    parts = [key.split("/", 1) for key in keys]
    assert {design for design, _told in parts} == set(DESIGNS)
    assert {told for _design, told in parts} <= set(REPRESENTATIONS)
    assert {"folds/attributes17", "gauged/aef", "clusters/aef+subsurface"} <= set(keys)


def test_without_data_the_page_still_opens_and_basins_says_why(tmp_path):
    settings = load_settings(dataset="camels_us", home=tmp_path / "home")
    definitions = build_defs(settings)
    graph = definitions.resolve_asset_graph()
    assert graph.get(dg.AssetKey("basin_models")).partitions_def.get_partition_keys() == []
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        asset_selection=[dg.AssetKey("basins")], raise_on_error=False
    )
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "set AEF_DATA_DIR" in failure.step_failure_data.user_failure_data.description
