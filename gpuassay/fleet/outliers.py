"""Which GPU is unlike its siblings? Robust statistics, one metric after the other; no sheet is looked at here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame, Series

FALSE_ALARM_SHARE = 0.01  # of the outliers named, expected by Benjamini-Hochberg
FEWEST = 8  # siblings; with fewer no spread can be told
# Distances from a node's own median pile up at zero (one of the eight is the median), so that their median says too
# little of their tails: their spread is taken at the 90th percentile, which 10 % of bad parts leave in place.


def find(rows: DataFrame) -> DataFrame:
    """`scores` of the rows of any number of metrics, with `p_adjusted` and `outlier`."""
    rows = scores(rows)
    rows["p_adjusted"] = adjusted(rows["p"], int(rows["p"].notna().sum()))
    rows["outlier"] = rows["p_adjusted"] <= FALSE_ALARM_SHARE
    return rows


def scores(rows: DataFrame) -> DataFrame:
    """`rows` (phase, metric, part, node, x) with `z` (of the part), `z_node`, `p`.

    z is the distance from the median in units of 1.4826 MAD. `z_node` takes the median of the siblings in the same
    node and the spread of all such distances of the part, since eight GPUs tell no spread of their own. The p-value is
    Student's t with the siblings less one degrees of freedom, two-sided, of the more extreme of the two, doubled
    (Bonferroni).
    """
    import numpy as np
    from scipy.special import stdtr

    rows = rows.copy()
    # Groups as plain numbers: pandas sorts them ten times as fast as four columns of names.
    family = rows.groupby(["phase", "part", "metric"], observed=True).ngroup()
    node = rows.groupby([family, rows["node"]], observed=True).ngroup()
    of_part = rows["x"] - rows["x"].groupby(family).transform("median")
    in_node = rows["x"].groupby(node)
    of_node = rows["x"] - in_node.transform("median")
    many = rows["x"].groupby(family).transform("count")
    rows["z"] = _z(of_part, family, many, 0.5)
    # A node with one or two GPUs of the part has no median of siblings.
    rows["z_node"] = _z(of_node, family, many, 0.9).where(in_node.transform("count") >= 4)
    extreme = np.fmax(rows["z"].abs(), rows["z_node"].abs())
    p = 2 * 2 * stdtr(np.maximum(many - 1, 1), -extreme)
    rows["p"] = np.where(np.isnan(extreme), np.nan, np.minimum(1.0, p))
    return rows


def adjusted(p: Series[float], tests: int) -> Series[float]:
    """p-values adjusted as Benjamini and Hochberg (1995), over `tests` comparisons of which `p` are the smallest.

    Where `p` holds every value up to FALSE_ALARM_SHARE, it decides as all of them would: an adjusted value is never
    below its own p, so that one left out cannot bring another under that share. NaN stays NaN.
    """
    ordered = p.dropna().sort_values()
    ranks = range(1, len(ordered) + 1)
    steps = ordered * tests / list(ranks)
    return steps[::-1].cummin().clip(upper=1.0).reindex(p.index)


def _z(deviation: Series[Any], family: Series[Any], many: Series[Any], share: float) -> Series[Any]:
    """Robust z: sigma by the quantile `share` of the distances (0.5: 1.4826 MAD); NaN for too few or equal siblings."""
    from scipy.special import ndtri

    scale = deviation.abs().groupby(family).transform("quantile", share) / ndtri((1 + share) / 2)
    return (deviation / scale.where(scale > 0)).where(many >= FEWEST)
