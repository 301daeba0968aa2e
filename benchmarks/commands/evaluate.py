"""python -m benchmarks evaluate: ELBO and log p(x) of a checkpoint, in any backend; --ais by annealing, too."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from typing import Annotated, Any

import tyro

from benchmarks.harness import annealed, cli, scoring
from benchmarks.harness.progress import Progress
from common import checkpoints, data, estimators, protocol
from common.config import Annealing, Precision, check
from common.errors import UserError
from common.estimators import plus_minus, standard_error
from common.noise import TEST, seed_for

ANNEALED_IMAGES = 100  # of --ais, unless --images says otherwise: it takes a hundred times as long an image
OF_ANNEALING = tuple(field.name for field in dataclasses.fields(Annealing))


def _of_annealing(name: str, kind: Any) -> Any:
    """The type of a flag of annealed importance sampling."""
    own = next(field for field in dataclasses.fields(Annealing) if field.name == name)
    return Annotated[kind | None, tyro.conf.arg(help=f"{own.metadata['help']} With --ais; {own.default} by default.")]


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
        ais: Annotated[
            bool, tyro.conf.arg(help="Also log p(x) by annealed importance sampling; stopped, the same command goes on.")
        ] = False
        chains: _of_annealing("chains", int) = None  # type: ignore[valid-type]
        distributions: _of_annealing("distributions", int) = None  # type: ignore[valid-type]
        leapfrogs: _of_annealing("leapfrogs", int) = None  # type: ignore[valid-type]
        schedule: _of_annealing("schedule", str) = None  # type: ignore[valid-type]

    asked = cli.parse(Evaluate, arguments, command="evaluate", description="ELBO and log p(x) of a checkpoint.")
    settings = annealing_of(asked)
    checkpoint = checkpoints.load(asked.checkpoint)
    given = {name: getattr(asked, name) for name in ("samples", "images", "device", "precision")}
    dataset = scoring.dataset_of(checkpoint, path=asked.checkpoint, places=asked.data, data_dir=asked.data_dir)
    if settings:
        cli.writable(asked.checkpoint.parent, remedy="--ais keeps its results there: copy the checkpoint to another folder")
        given["images"] = min(ANNEALED_IMAGES, len(dataset.test)) if asked.images is None else asked.images
    config = checkpoint.config.replace(**{name: value for name, value in given.items() if value is not None})
    check(config, train_images=len(dataset.train), test_images=len(dataset.test))
    cli.warn_of(config)
    name = asked.backend or cli.backend_of(checkpoint, path=asked.checkpoint)
    backend = protocol.load(name)
    progress = Progress(f"{name} {config.model.variational}")
    of_images = scoring.scores(backend, checkpoint.selected(), config=config, dataset=dataset, progress=progress)
    estimators.refuse_divergence(of_images)
    test = estimators.summary(of_images)
    print(
        f"ELBO {test.elbo:.3f} {plus_minus(test.elbo_se)}, log p(x) {test.log_px:.3f} {plus_minus(test.log_px_se)} nats per "
        f"image (± over test images; over other importance samples {plus_minus(test.log_px_mc_se)}; "
        f"K = {test.importance_samples}, {test.images} images, effective sample size {test.ess:.1f})"
    )
    if warning := estimators.warning(of_images, of=len(dataset.test), highest=dataset.highest_log_px):
        print(warning, file=sys.stderr)
    if settings is None:
        return 0
    images = data.subset(images=config.evaluation.images, of=len(dataset.test))
    print(f"By annealing: {annealed.cost(settings, images=len(images))}.", file=sys.stderr)
    scorer = backend.score(config, checkpoint.selected())
    seed = seed_for(config.training.seed, TEST)
    of = {"settings": dataclasses.asdict(settings), "backend": name, "factors": config.factors, "seed": seed}
    weights = hashlib.sha256(asked.checkpoint.read_bytes()).hexdigest()
    with progress.phase("annealing", total=len(images), unit="images") as advance:
        found = annealed.of_images(
            scorer,
            scorer.place(dataset.test),
            images=images,
            config=config,
            settings=settings,
            seed=seed,
            file=annealed.kept(asked.checkpoint, weights=weights, **of),
            report=lambda done: advance(done, None),
        )
    above = found.log_px - of_images.log_px
    print(
        f"log p(x) by annealing {found.log_px.mean():.3f} {plus_minus(standard_error(found.log_px))}, over other chains "
        f"{plus_minus(found.mc_error)}: {above.mean():.3f} {plus_minus(standard_error(above))} above that of "
        f"K = {test.importance_samples} on the same images ({settings.chains} chains, {settings.distributions:,} "
        f"distributions, effective sample size {found.ess.mean():.1f})"
    )
    return 0


def annealing_of(asked: Any) -> Annealing | None:
    """The settings of --ais; None without it. Raises `UserError` for a setting without --ais or below 1."""
    given = {name: getattr(asked, name) for name in OF_ANNEALING if getattr(asked, name) is not None}
    if not asked.ais:
        if given:
            raise UserError(f"--{next(iter(given))} is a setting of --ais; add --ais.")
        return None
    if given.get("schedule", "linear") not in ("linear", "sigmoid"):
        raise UserError(f"--schedule is '{given['schedule']}'; it must be sigmoid or linear.")
    settings = Annealing(**given)
    cli.at_least(settings, chains=1, distributions=1, leapfrogs=1)
    return settings
