"""What independently trained models were found to agree on: tables, and the same in plain words."""

from __future__ import annotations

import dataclasses
import html
import math

import pandas as pd

# Kinks cost digits, which the errors of the lengths tell; the other assumptions cost the claim.
TOLERATED = ("smooth",)
_FEW = 5  # trainings, below which Student's intervals are several times as wide as a normal distribution's
_REMEDIES = {"not converged": " (raise segments, or max_iter)"}


@dataclasses.dataclass(frozen=True, repr=False)
class Agreement:
    """How far S models agree on the distances of P pairs of data; what :func:`latentgeo.agreement` returns.

    Attributes:
        distances: one row for each model, pair and method: ``model``, ``pair``, ``method``, ``value`` (data units;
            latent units for ``euclidean``), ``converged`` and ``error`` (estimated relative error of the value; 0 where
            it is exact).
        pairs: one row for each pair: ``first`` and ``second`` (rows of the data) and, with labels, ``first_label`` and
            ``second_label``; ``geodesic``, the mean over the models in which it converged, with its Student interval
            ``geodesic_low`` to ``geodesic_high`` over these and their coefficient of variation ``cv_geodesic``; the
            same for ``euclidean``, over all models; ``models``, in how many the geodesic converged; ``gap``, the
            largest over models of how far it runs from any code's image, in units of the distance between neighbouring
            codes' images; ``reliable`` and, where it is not, the ``reason``. What too few converged models leave open
            is ``pd.NA``.
        methods: one row for each method, from :func:`latentgeo.compare_reliability` against Euclidean distance; empty
            if no pair is finite and positive by every method.
        assumptions: from :func:`latentgeo.check_assumptions`, with a column ``model``; empty if not asked for.
        names: the models.
        level: of the intervals.
    """

    distances: pd.DataFrame
    pairs: pd.DataFrame
    methods: pd.DataFrame
    assumptions: pd.DataFrame
    names: tuple[str, ...]
    level: float

    def __repr__(self) -> str:
        """Say how many models, pairs and reliable pairs, not the tables."""
        return (
            f"Agreement({len(self.names)} models, {len(self.pairs)} pairs, {int(self.pairs.reliable.sum())} reliable)"
        )

    def summary(self) -> str:
        """Say in plain words, with numbers, how far the models agree and which pairs not to rely on."""
        return "\n".join(self._sentences())

    def _sentences(self) -> list[str]:
        P, S = len(self.pairs), len(self.names)
        lines = [f"{S} models ({', '.join(self.names)}), {P} pairs of data."]
        if self.methods.empty:
            lines.append(
                "The methods cannot be compared: no pair has a finite distance by all of them, or under some model all "
                "distances are zero."
            )
        else:
            lines += self._comparison()
        reliable = int(self.pairs["reliable"].sum())
        lines.append(
            f"{reliable} of {P} geodesic distances are reliable: found by the solver, within the data, and steady. How "
            "well a mean over trainings is known, its interval says."
        )
        if S < _FEW:
            lines[0] += f" So few trainings leave intervals wide; train {_FEW} or more."
        reasons = self.pairs.loc[~self.pairs["reliable"], "reason"].str.split("; ").explode()
        # The same reason in one model or in several is one reason here.
        kinds = reasons.str.replace(r" in \d+ of \d+ models$", "", regex=True).groupby(level=0).unique().explode()
        lines += [
            f"- {kind}: {count} of {P} pairs{_REMEDIES.get(kind, '')}" for kind, count in kinds.value_counts().items()
        ]
        failing = self.assumptions[self.assumptions["verdict"] != "holds"]
        if self.assumptions.empty:
            lines.append("The assumptions were not checked.")
        elif failing.empty:
            lines.append("No counter-example to the assumptions was found in any model.")
        geodesics = self.distances[(self.distances["method"] == "geodesic") & self.distances["converged"]]
        error = geodesics.groupby("model")["error"].median()
        for row in failing.itertuples():
            if row.assumption in TOLERATED:
                told = f" (median error {100 * error[row.model]:.2g} %)" if row.model in error else ""
                lines.append(
                    f"- {row.model}: the decoder has kinks (ReLU) or bends very fast. That is no reason against a pair "
                    f"but costs digits{told}; a smooth activation or more segments give them back."
                )
            else:
                lines.append(f"- {row.model}: {row.assumption} {row.verdict}, {row.detail}")
        return lines

    def _comparison(self) -> list[str]:
        """Sentences on coefficients of variation and ranks."""
        row, base = self.methods.loc["geodesic"], self.methods.loc["euclidean"]
        low, high = row.difference_low, row.difference_high
        if high < 0:
            found = "geodesic distances agree better"
        elif low > 0:
            found = "geodesic distances agree less"
        else:
            found = "it holds zero, so that these models do not decide which agree better"
        return [
            f"Mean coefficient of variation over models: geodesic {100 * row.mean_cv:.2g} %, Euclidean "
            f"{100 * base.mean_cv:.2g} %; difference {100 * row.difference:.2g} points, {100 * self.level:g} % "
            f"interval over models [{100 * low:.2g}, {100 * high:.2g}]: {found}.",
            f"The same with each model's distances divided by their mean, so that a scale does not count: geodesic "
            f"{100 * row.scale_free_cv:.2g} %, Euclidean {100 * base.scale_free_cv:.2g} %; difference "
            f"{100 * row.scale_free_difference:.2g} points [{100 * row.scale_free_difference_low:.2g}, "
            f"{100 * row.scale_free_difference_high:.2g}].",
            *(
                []
                if math.isnan(row.spearman)
                else [
                    f"Rank correlation of the pairs between two models: geodesic {row.spearman:.3f}, Euclidean "
                    f"{base.spearman:.3f}."
                ]
            ),
        ]

    def _repr_html_(self) -> str:
        shown = ["mean_cv", "difference", "difference_low", "difference_high", "scale_free_cv", "spearman"]
        table = "" if self.methods.empty else self.methods[shown].to_html(float_format=lambda value: f"{value:.3g}")
        return f"<div>{'<br>'.join(html.escape(line) for line in self._sentences())}</div>{table}"
