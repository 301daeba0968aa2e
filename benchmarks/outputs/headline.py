"""The README's sentence on parity, made from the ladder's report."""

from __future__ import annotations

from typing import Any

# Rung of the ladder → the rung's name in the sentence.
SHOWN = {
    "log-weights": "log weights",
    "gradients": "gradients",
    "steps-100": "parameters and moments after 100 training steps",
    "evaluation": "the test ELBO and log p(x) then",
}


def parity(report: dict[str, Any]) -> str:
    """The sentence: the largest deviation between two backends on each rung of SHOWN, in float64 and in float32."""
    worst: dict[tuple[str, str], float] = {}
    for row in report["rows"]:
        key = row["rung"], row["dtype"]
        worst[key] = max(worst.get(key, 0.0), row["deviation"])
    said = [f"{name} {worst[rung, 'float64']:.1e} ({worst[rung, 'float32']:.1e})" for rung, name in SHOWN.items()]
    return (
        "Given the same weights, images and noise, two of the frameworks differ in float64 (float32) by max|a − b| / max|b| of "
        f"at most: {'; '.join(said)}."
    )
