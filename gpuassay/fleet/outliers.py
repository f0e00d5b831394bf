"""Which GPU is unlike its siblings? Robust statistics on all rows at once; no sheet is looked at here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame, Series

FALSE_ALARM_SHARE = 0.01  # of the outliers named, expected by Benjamini-Hochberg
FEWEST = 8  # siblings; with fewer no spread can be told
MAD_TO_SIGMA = 1.4826  # of a normal distribution


def find(rows: DataFrame) -> DataFrame:
    """`rows` (metric, part, node, x) with `z` against the part, `z_node` against the node, `p`, `p_adjusted`, `outlier`.

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
    rows["z"] = _z(of_part, family, many)
    # A node with one or two GPUs of the part has no median of siblings.
    rows["z_node"] = _z(of_node, family, many).where(in_node.transform("count") >= 4)
    extreme = np.fmax(rows["z"].abs(), rows["z_node"].abs())
    p = 2 * 2 * stats.t.sf(extreme, np.maximum(many - 1, 1))
    rows["p"] = np.where(np.isnan(extreme), np.nan, np.minimum(1.0, p))
    known = rows["p"].notna().to_numpy()
    rows["p_adjusted"] = np.nan
    if known.any():
        rows.loc[known, "p_adjusted"] = stats.false_discovery_control(rows.loc[known, "p"].to_numpy())
    rows["outlier"] = rows["p_adjusted"] <= FALSE_ALARM_SHARE
    return rows


def _z(deviation: Series[Any], family: list[Any], many: Series[Any]) -> Series[Any]:
    """Robust z; NaN for too few siblings or where all are alike."""
    scale = MAD_TO_SIGMA * deviation.abs().groupby(family, observed=True).transform("median")
    return (deviation / scale.where(scale > 0)).where(many >= FEWEST)
