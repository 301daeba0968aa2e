"""The README's sentence on parity, made from the ladder's report."""

from __future__ import annotations

from typing import Any

SHOWN = {
    "log-weights": "log weights",
    "gradients": "gradients",
    "evaluation": "test ELBO and log p(x) after 100 training steps",
}  # rung of the ladder → its name in the sentence


def parity(report: dict[str, Any]) -> str:
    """One sentence: the worst deviation of any two backends on some rungs, in float64 and in float32."""

    def worst(rung: str, dtype: str) -> str:
        return f"{max(row['deviation'] for row in report['rows'] if (row['rung'], row['dtype']) == (rung, dtype)):.1e}"

    said = [
        f"{name} {worst(rung, 'float64')} in float64 and {worst(rung, 'float32')} in float32" for rung, name in SHOWN.items()
    ]
    return (
        "Given the same weights, images and noise, the worst deviation max|a − b| / max|b| between two of the frameworks is: "
        f"{'; '.join(said)}."
    )
