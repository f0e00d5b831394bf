"""Which GPU is unlike its siblings? Robust statistics on all rows at once; no sheet is looked at here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame, Series

FALSE_ALARM_SHARE = 0.01  # of the outliers named, expected by Benjamini-Hochberg
FEWEST = 8  # siblings; with fewer no spread can be told
# Distances from a node's own median pile up at zero (one of the eight is the median), so that their median says too
# little of their tails: their spread is taken at the 90th percentile, which 10 % of bad parts leave in place.


def find(rows: DataFrame) -> DataFrame:
    """`rows` (metric, part, node, x) with `z` (of the part), `z_node`, `p`, `p_adjusted`, `outlier`.

    z is the distance from the median in units of 1.4826 MAD. `z_node` takes the median of the siblings in the same
    node and the spread of all such distances of the part, since eight GPUs tell no spread of their own. The p-value is
    Student's t with the siblings less one degrees of freedom, two-sided, of the more extreme of the two, doubled
    (Bonferroni); then Benjamini and Hochberg (1995) over every GPU and metric of the store.
    """
    import numpy as np
    from scipy import stats

    rows = rows.copy()
    family = [rows["phase"], rows["part"], rows["metric"]]
    of_part = rows["x"] - rows.groupby(family, observed=True)["x"].transform("median")
    in_node = rows.groupby([*family, rows["node"]], observed=True)["x"]
    of_node = rows["x"] - in_node.transform("median")
    many = rows.groupby(family, observed=True)["x"].transform("count")
    rows["z"] = _z(of_part, family, many, 0.5)
    # A node with one or two GPUs of the part has no median of siblings.
    rows["z_node"] = _z(of_node, family, many, 0.9).where(in_node.transform("count") >= 4)
    extreme = np.fmax(rows["z"].abs(), rows["z_node"].abs())
    p = 2 * 2 * stats.t.sf(extreme, np.maximum(many - 1, 1))
    rows["p"] = np.where(np.isnan(extreme), np.nan, np.minimum(1.0, p))
    known = rows["p"].notna().to_numpy()
    rows["p_adjusted"] = np.nan
    if known.any():
        rows.loc[known, "p_adjusted"] = stats.false_discovery_control(rows.loc[known, "p"].to_numpy())
    rows["outlier"] = rows["p_adjusted"] <= FALSE_ALARM_SHARE
    return rows


def _z(deviation: Series[Any], family: list[Any], many: Series[Any], share: float) -> Series[Any]:
    """Robust z: sigma by the quantile `share` of the distances (0.5: 1.4826 MAD); NaN for too few or equal siblings."""
    from scipy.special import ndtri

    scale = deviation.abs().groupby(family, observed=True).transform("quantile", share) / ndtri((1 + share) / 2)
    return (deviation / scale.where(scale > 0)).where(many >= FEWEST)
