"""python -m benchmarks evaluate: ELBO and log p(x) of a checkpoint, in any backend."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

import tyro

from benchmarks.harness import cli, runs
from benchmarks.harness.progress import Progress
from common import checkpoints, estimators, protocol
from common.config import Precision, check


def main(arguments: list[str]) -> int:
    @dataclasses.dataclass
    class Evaluate:
        checkpoint: cli.Checkpoint
        samples: Annotated[int | None, tyro.conf.arg(help="K; as in the run by default.")] = None
        images: Annotated[int | None, tyro.conf.arg(help="Test images, the same for every seed; 0 for all.")] = None
        backend: Annotated[str | None, tyro.conf.arg(help="Any backend; by default the checkpoint's.")] = None
        device: cli.OnDevice = "cpu"
        precision: Annotated[Precision | None, tyro.conf.arg(help="full, tf32 or bfloat16; as in the run by default.")] = None
        data: cli.Moved = ()
        data_dir: cli.DataDir = None

    asked = cli.parse(Evaluate, arguments, command="evaluate", description="ELBO and log p(x) of a checkpoint.")
    checkpoint = checkpoints.load(asked.checkpoint)
    given = {name: getattr(asked, name) for name in ("samples", "images", "device", "precision")}
    config = checkpoint.config.replace(**{name: value for name, value in given.items() if value is not None})
    dataset = runs.dataset_of(checkpoint, path=asked.checkpoint, places=asked.data, data_dir=asked.data_dir)
    check(config, train_images=len(dataset.train), test_images=len(dataset.test))
    cli.warn_of(config)
    name = asked.backend or cli.backend_of(checkpoint, path=asked.checkpoint)
    backend = protocol.load(name)
    progress = Progress(f"{name} {config.model.variational}")
    of_images = runs.scores(backend, checkpoint.selected(), config=config, dataset=dataset, progress=progress)
    estimators.refuse_divergence(of_images)
    test = estimators.summary(of_images)
    print(
        f"ELBO {test.elbo:.3f} ± {test.elbo_se:.3f}, log p(x) {test.log_px:.3f} ± {test.log_px_se:.3f} nats per image "
        f"(K = {test.importance_samples}, {test.images} images, effective sample size {test.ess:.1f})"
    )
    if warning := estimators.warning(of_images, highest=dataset.highest_log_px):
        print(warning, file=sys.stderr)
    return 0
