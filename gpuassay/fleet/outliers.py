"""Which GPU is unlike its siblings? Robust statistics, one metric after the other; no sheet is looked at here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame, Series

FALSE_ALARM_SHARE = 0.01  # of the outliers named, expected by Benjamini-Hochberg
FEWEST = 8  # siblings; with fewer no spread can be told
FEWEST_IN_NODE = 3  # others in the same node


def find(rows: DataFrame) -> DataFrame:
    """`scores` of the rows of any number of metrics, with `p_adjusted` and `outlier`."""
    rows = scores(rows)
    rows["p_adjusted"] = adjusted(rows["p"], int(rows["p"].notna().sum()))
    rows["outlier"] = rows["p_adjusted"] <= FALSE_ALARM_SHARE
    return rows


def scores(rows: DataFrame) -> DataFrame:
    """`rows` (phase, metric, part, node, x) with `z` (of the part), `z_node`, `p`.

    z is the distance from the median in units of 1.4826 MAD. `z_node` is the distance from the median of the others in
    the same node, in units of the spread of all such distances of the part, since eight GPUs tell no spread of their
    own. The p-value is Student's t with the siblings less one degrees of freedom, two-sided, of the more extreme of the
    two, doubled (Bonferroni).
    """
    import numpy as np
    from scipy.special import stdtr

    rows = rows.copy()
    # Groups as plain numbers: pandas sorts them ten times as fast as four columns of names.
    family = rows.groupby(["phase", "part", "metric"], observed=True).ngroup()
    node = rows.groupby([family, rows["node"]], observed=True).ngroup()
    of_part = rows["x"] - rows["x"].groupby(family).transform("median")
    many = rows["x"].groupby(family).transform("count")
    others, siblings = _median_of_others(rows["x"], node)
    # The median of n normal values has pi / (2 n) of their variance (n large): nodes of any size are told alike.
    of_node = (rows["x"] - others) / np.sqrt(1 + np.pi / 2 / siblings.clip(lower=1))
    rows["z"] = _z(of_part, family, many)
    # A node with one or two GPUs of the part has no median of siblings.
    rows["z_node"] = _z(of_node, family, many).where(siblings >= FEWEST_IN_NODE)
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


def _median_of_others(x: Series[Any], group: Series[Any]) -> tuple[Series[Any], Series[Any]]:
    """Of each value the median of the others in its group, and how many these are.

    Without the value itself: were it in it, such distances would pile up at zero and have no normal tails.
    """
    import numpy as np
    import pandas as pd

    order = np.lexsort((x.to_numpy(), group.to_numpy()))  # NaN comes last in its group
    values, groups = x.to_numpy()[order], group.to_numpy()[order]
    first = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]]) if len(groups) else np.array([], int)
    sizes = np.diff(np.r_[first, len(groups)])
    start = np.repeat(first, sizes)
    count = np.repeat(np.add.reduceat(~np.isnan(values), first), sizes) if len(groups) else sizes
    rank = np.arange(len(values)) - start
    left = np.where(np.isnan(values), count, count - 1)

    def other(place: Any) -> Any:
        """The value at this place among the others of each."""
        return values[np.minimum(start + place + (place >= rank), len(values) - 1)]

    middle = np.maximum(left - 1, 0) // 2, left // 2
    medians = np.where(left > 0, other(middle[0]) / 2 + other(middle[1]) / 2, np.nan)  # no sum that overflows
    back = np.empty(len(order), int)
    back[order] = np.arange(len(order))
    return pd.Series(medians[back], x.index), pd.Series(left[back], x.index)


def _z(deviation: Series[Any], family: Series[Any], many: Series[Any]) -> Series[Any]:
    """Robust z: sigma is 1.4826 times the median distance; NaN for too few or equal siblings."""
    from scipy.special import ndtri

    scale = deviation.abs().groupby(family).transform("median") / ndtri(0.75)
    return (deviation / scale.where(scale > 0)).where(many >= FEWEST)
