"""Recipes and budgets: choices that are refused, learning rates, sizes that tables name."""

import pytest

from aef_dagster.errors import UserError
from aef_dagster.models.recipes import BUDGETS, RECIPES, Recipe


def test_a_choice_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="loss must be one of nse, rmse, not 'mae'"):
        Recipe(loss="mae")


def test_learning_rate_rises_to_its_peak_and_falls_to_nothing():
    recipe = Recipe(learning_rate=1.0, rise_share=0.1)
    rates = [recipe.learning_rate_at(update, 100) for update in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    assert recipe.learning_rate_at(0, 1) == 1.0


def test_the_exponential_rate_falls_by_epochs():
    recipe = RECIPES["paper"]
    assert recipe.learning_rate_at(0, 100, epoch=0) == 1e-4
    assert recipe.learning_rate_at(99, 100, epoch=2) == pytest.approx(0.9025e-4)


def test_budgets_are_what_tables_say():
    assert BUDGETS["tiny"].basin_days == 2_592_000
    assert BUDGETS["donor"].basin_days == 14_016_000
    assert BUDGETS["full"].hidden == 128
    assert BUDGETS["full"].basin_days == 87_600_000
    assert all(budget.name == name for name, budget in BUDGETS.items())
