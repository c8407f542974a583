"""What NSE to expect of a basin without a gauge, and how sure that is.

Here: a linear quantile regression from what is known of any basin (similarity to its donors,
spread of the ensemble, distance in climate) to the NSE of basins whose flow was hidden, with an
interval calibrated on basins that the regression has not seen; and how often it held.
Not here: the features and the scores (experiments/).

NSE has no lower end, and its few values of -30 would rule any fit. What is regressed is
t = 1 / (2 - NSE), in (0, 1]: 1 for a perfect simulation, 1/2 for one as good as the mean flow
(Nossent and Bauwens 2012). Quantiles survive the way there and back, means would not.

The interval is conformalised quantile regression (Romano, Patterson and Candes 2019): both ends
are moved outwards by a quantile of how far held-out basins lay outside. Their proof asks for basins
set aside; with two dozen in all none can be spared, so each basin is judged by a regression fitted
to the other folds, and the last fit is on all. This holds its level in trials, without a proof.
It speaks of basins like those it was fitted to: in a region unlike them all bets are off, which is
what `beyond` tells.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aef_dagster.errors import UserError

MIN_BASINS = 20

# NSE of -98: lower expectations mean the same, and t = 0 would be minus infinity.
LOWEST_T = 0.01

# Weights of the L1 penalty on coefficients of z-scored features. At 0.1 features without a
# message are mostly left out of a fit to 24 basins, at 0.03 of one to 671.
ALPHAS = (0.003, 0.03, 0.1)

_FOLDS = 5


@dataclass(frozen=True)
class TrustModel:
    """A fitted expectation of NSE. Made by `fit_trust`; plain numbers, kept as JSON.

    Parameters
    ----------
    features
        Names of the features used.
    dropped
        Names of features without information: missing everywhere, or constant.
    level
        Share of basins that the interval should hold.
    n_basins
        Basins fitted to.
    fill, scale
        Median (stands in for a missing value) and standard deviation of each feature over them.
    lowest, highest
        Range of each feature over them.
    intercepts
        Of the quantiles low, median, high of t.
    coefficients
        Rows as the intercepts, a column a feature, per standard deviation.
    correction
        What the ends of the interval move outwards, in t.
    alpha
        Weight of the penalty, chosen by cross-validation.
    """

    features: tuple[str, ...]
    dropped: tuple[str, ...]
    level: float
    n_basins: int
    fill: tuple[float, ...]
    scale: tuple[float, ...]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    intercepts: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    correction: float
    alpha: float

    def expect(self, features: pd.DataFrame) -> pd.DataFrame:
        """NSE to expect of each basin.

        Parameters
        ----------
        features
            A row per basin, columns those the model was fitted to; others are not looked at. NaN =
            missing.

        Returns
        -------
        DataFrame
            expected (median), low, high (NSE, -98 to 1), beyond (number of features outside the
            range fitted to); index as the features.

        Raises
        ------
        UserError
            A feature is not there at all.
        """
        lacking = [name for name in self.features if name not in features.columns]
        if lacking:
            raise UserError(
                f"expected NSE needs {', '.join(lacking)}, which these basins do not have; add "
                "the column, or fit the expectation anew without it"
            )
        x = _numbers(features[list(self.features)])
        beyond = (x < np.array(self.lowest)) | (x > np.array(self.highest))
        numbers = (self.fill, self.scale, self.intercepts, self.coefficients)
        low, median, high = _Lines(*map(np.array, numbers)).at(x).T
        return pd.DataFrame(
            {
                "expected": _nse_of(median),
                "low": _nse_of(np.minimum(low - self.correction, median)),
                "high": _nse_of(np.maximum(high + self.correction, median)),
                "beyond": beyond.sum(axis=1),
            },
            index=features.index,
        )

    def to_json(self) -> str:
        """The model as text; `from_json` gives back its equal."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "TrustModel":
        """A model from what `to_json` wrote."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in json.loads(text).items()
        }
        values["coefficients"] = tuple(tuple(row) for row in values["coefficients"])
        return cls(**values)


def fit_trust(
    features: pd.DataFrame, nse: pd.Series, level: float = 0.8, seed: int = 0
) -> TrustModel:
    """Learn from basins whose flow was hidden what NSE to expect.

    Parameters
    ----------
    features
        A row per basin, index gauge_id, numeric columns; NaN = missing.
    nse
        Score of each basin that was held out, index gauge_id; NaN = no score. Basins without
        features are left out.
    level
        Share of basins that the interval should hold, above 0 and below 1.
    seed
        Of the folds.

    Returns
    -------
    TrustModel
        Features that are constant or missing everywhere are left out and named in `dropped`.

    Raises
    ------
    UserError
        Fewer than 20 scored basins.
    """
    table, t = _scored(features, nse)
    return _fit(table, t, level, seed)


def cross_fitted(
    features: pd.DataFrame, nse: pd.Series, n_folds: int = 5, level: float = 0.8, seed: int = 0
) -> pd.DataFrame:
    """Expectation of each basin by a model fitted, and calibrated, without it.

    Parameters
    ----------
    features, nse, level
        As in `fit_trust`.
    n_folds
        Folds of the basins, at random.
    seed
        Of the folds here and within each fit.

    Returns
    -------
    DataFrame
        expected, low, high, beyond, as of `TrustModel.expect`; one row per scored basin, in the
        order of the features.

    Raises
    ------
    UserError
        Fewer than 20 scored basins.
    """
    table, t = _scored(features, nse)
    fold = _fold_of(len(t), n_folds, seed)
    parts = [
        _fit(table[fold != number], t[fold != number], level, seed).expect(table[fold == number])
        for number in range(n_folds)
    ]
    return pd.concat(parts).loc[table.index]


def coverage(table: pd.DataFrame, nse: pd.Series, level: float = 0.95) -> dict[str, float]:
    """How often the interval held, and whether the order of basins was told.

    Parameters
    ----------
    table
        Columns expected, low, high, index gauge_id, of basins that the model was not fitted to.
    nse
        Scores of these basins, index gauge_id; NaN is left out.
    level
        Of the interval of the share.

    Returns
    -------
    dict
        n, share (inside the interval), low, high (Wilson's interval of the share, for independent
        basins), rank_correlation (Spearman, expected and observed), median_width (high - low, in
        NSE). NaN without scored basins; the correlation also where one side is constant.

    References
    ----------
    Wilson (1927), Journal of the American Statistical Association 22, 209-212.
    """
    from scipy.stats import binomtest, spearmanr

    observed = nse.reindex(table.index)
    table, observed = table[observed.notna()], observed[observed.notna()]
    n = len(table)
    if n == 0:
        names = ("share", "low", "high", "rank_correlation", "median_width")
        return {"n": 0} | dict.fromkeys(names, np.nan)
    inside = observed.between(table["low"], table["high"])
    interval = binomtest(int(inside.sum()), n).proportion_ci(level, method="wilson")
    varied = table["expected"].nunique() > 1 and observed.nunique() > 1
    rho = float(spearmanr(table["expected"], observed).statistic) if varied else np.nan
    return {
        "n": n,
        "share": float(inside.mean()),
        "low": float(interval.low),
        "high": float(interval.high),
        "rank_correlation": rho,
        "median_width": float((table["high"] - table["low"]).median()),
    }


@dataclass(frozen=True)
class _Lines:
    """The three quantiles of t, each linear in the features."""

    fill: NDArray
    scale: NDArray
    intercepts: NDArray
    coefficients: NDArray

    def at(self, x: NDArray) -> NDArray[np.float64]:
        """Quantiles of t, shape [basin, 3], in order: lines that cross are put right."""
        z = (np.where(np.isnan(x), self.fill, x) - self.fill) / self.scale
        return np.sort(self.intercepts + z @ self.coefficients.T, axis=1)


def _fit(table: pd.DataFrame, t: NDArray, level: float, seed: int) -> TrustModel:
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
    x = _numbers(table)
    useful: NDArray[np.bool_] = np.asarray(~np.isnan(x).all(axis=0))
    useful[useful] = np.nanmax(x[:, useful], axis=0) > np.nanmin(x[:, useful], axis=0)
    x = x[:, useful]
    taus = np.array([(1 - level) / 2, 0.5, (1 + level) / 2])
    fold = _fold_of(len(t), _FOLDS, seed)
    held_out = {}
    for alpha in ALPHAS:
        held_out[alpha] = np.empty((len(t), 3))
        for number in range(_FOLDS):
            lines = _lines(x[fold != number], t[fold != number], taus, alpha)
            held_out[alpha][fold == number] = lines.at(x[fold == number])
    alpha = min(ALPHAS, key=lambda a: (_pinball(held_out[a], t, taus), -a))
    lines = _lines(x, t, taus, alpha)
    names = np.array([str(name) for name in table.columns], dtype=object)
    return TrustModel(
        features=tuple(names[useful]),
        dropped=tuple(names[~useful]),
        level=float(level),
        n_basins=len(t),
        fill=tuple(lines.fill.tolist()),
        scale=tuple(lines.scale.tolist()),
        lowest=tuple(np.nanmin(x, axis=0).tolist()),
        highest=tuple(np.nanmax(x, axis=0).tolist()),
        intercepts=tuple(lines.intercepts.tolist()),
        coefficients=tuple(tuple(row) for row in lines.coefficients.tolist()),
        correction=_correction(held_out[alpha], t, level),
        alpha=alpha,
    )


def _lines(x: NDArray, t: NDArray, taus: NDArray, alpha: float) -> _Lines:
    from sklearn.linear_model import QuantileRegressor

    fill, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
    for i, column in enumerate(x.T):
        seen = column[~np.isnan(column)]  # may be empty, or constant, within a fold
        if seen.size:
            fill[i] = np.median(seen)
            scale[i] = seen.std() or 1.0
    z = (np.where(np.isnan(x), fill, x) - fill) / scale
    if z.shape[1] == 0:
        return _Lines(fill, scale, np.quantile(t, taus), np.zeros((3, 0)))
    fits = [QuantileRegressor(quantile=tau, alpha=alpha).fit(z, t) for tau in taus]
    intercepts = np.array([float(fit.intercept_) for fit in fits])
    return _Lines(fill, scale, intercepts, np.stack([fit.coef_ for fit in fits]))


def _correction(quantiles: NDArray, t: NDArray, level: float) -> float:
    """The conformal quantile of how far basins lie outside; negative if most lie well inside."""
    outside = np.sort(np.maximum(quantiles[:, 0] - t, t - quantiles[:, 2]))
    place = int(np.ceil((len(t) + 1) * level))
    # Too few basins for the level: nothing less than all of (0, 1] is sure to hold it.
    return float(outside[place - 1]) if place <= len(t) else 1.0


def _pinball(quantiles: NDArray, t: NDArray, taus: NDArray) -> float:
    error = t[:, None] - quantiles
    return float(np.maximum(taus * error, (taus - 1) * error).mean())


def _scored(features: pd.DataFrame, nse: pd.Series) -> tuple[pd.DataFrame, NDArray]:
    """Features and t of the basins that have both."""
    score = nse.reindex(features.index).to_numpy(dtype=np.float64)
    has = np.isfinite(score)
    if has.sum() < MIN_BASINS:
        raise UserError(
            f"not calibrated yet: an expected NSE is learned from {MIN_BASINS} or more basins with "
            f"a score and features, and there are {int(has.sum())}; train more held-out basins"
        )
    return features[has], 1 / (2 - score[has])


def _numbers(features: pd.DataFrame) -> NDArray[np.float64]:
    x = features.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(x), x, np.nan)


def _nse_of(t: NDArray) -> NDArray[np.float64]:
    return 2 - 1 / np.clip(t, LOWEST_T, 1)


def _fold_of(n: int, n_folds: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(np.arange(n) % n_folds)
