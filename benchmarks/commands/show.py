"""python -m benchmarks show: test images, reconstructions and samples of trained models as pictures, their training as GIF."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.harness import cli, jobs, looks, presets, records
from benchmarks.harness.looks import Look
from benchmarks.outputs import pictures
from common import checkpoints
from common.checkpoints import Checkpoint
from common.config import SECTIONS
from common.errors import DiskError, UserError
from common.files import write_bytes

COMPARISON = "comparison.png"


@dataclass
class Show:
    run: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(help="Records, checkpoints, or results folders with all theirs.")
    ]
    images: Annotated[int, tyro.conf.arg(help="Test images, chosen at random, and their reconstructions.")] = 36
    samples: Annotated[int, tyro.conf.arg(help="Draws of the prior.")] = 36
    seed: Annotated[int, tyro.conf.arg(help="Decides which images are drawn, and all noise.")] = 0
    output: Annotated[Path | None, tyro.conf.arg(help="Folder of the pictures; beside each checkpoint by default.")] = None
    gif: Annotated[bool, tyro.conf.arg(help="Also the training, from checkpoints that `run --keep-checkpoints` kept.")] = False
    webp: Annotated[bool, tyro.conf.arg(help="As --gif, as WebP.")] = False
    train: Annotated[
        bool, tyro.conf.arg(help="Take the frames of --gif or --webp from a training on the spot, which keeps nothing.")
    ] = False
    backend: Annotated[str | None, tyro.conf.arg(help="Any backend; by default the one of training.")] = None
    data: cli.Moved = ()
    data_dir: cli.DataDir = None


def main(arguments: list[str]) -> int:
    asked: Show = cli.parse(Show, arguments, command="show", description="Pictures of trained models.")
    check(asked)
    settings = {name: getattr(asked, name) for name in ("images", "samples", "seed", "backend", "data", "data_dir")}
    kinds = [kind for kind in pictures.KINDS if getattr(asked, kind.lower())]
    shown: list[tuple[Checkpoint, Look, Path]] = []
    if not (paths := found(asked.run)):
        raise UserError(f"There is no checkpoint in {', '.join(map(str, asked.run))}; `python -m benchmarks run` writes one.")
    for path in paths:
        try:
            checkpoint = checkpoints.load(path)
            target = (asked.output or path.parent) / path.with_suffix(".png").name
            if target in [written for *_, written in shown]:
                raise UserError(f"Two runs' pictures would be {target}; leave out --output, or show one of the two.")
            look = looks.of(path, **settings)
            write_bytes(target, pictures.png(pictures.picture(look)))
            print(f"{target}: {described(look)}")
            if kinds:
                frames = of_training(path, anew=asked.train, settings=settings)
                for kind in kinds:
                    animated = target.with_suffix(f".{kind.lower()}")
                    write_bytes(animated, content := pictures.animation(frames, kind=kind))
                    print(f"{animated}: {pictures.told(frames)}; {len(content) / 1e6:.2f} MB")
        except UserError as error:
            if path in map(checkpoint_of, asked.run) or isinstance(error, DiskError):
                raise
            other = checkpoints.other_kind(path)
            print(f"{path} is passed over: {f'{other}, not a checkpoint.' if other else error}", file=sys.stderr)
        else:
            shown.append((checkpoint, look, target))
    if not shown:
        raise UserError("No file could be shown; the reasons stand above.")
    if len(shown) > 1:
        compare(shown)
    return 0


def check(asked: Show) -> None:
    """Raises `UserError` for arguments that make no sense."""
    cli.at_least(asked, images=1, samples=1, seed=0)
    if asked.backend:
        cli.known([asked.backend])
    if not asked.run:
        raise UserError("Which runs? Give records, checkpoints or results folders, as `python -m benchmarks run` writes them.")
    for run in asked.run:
        if not run.exists():
            raise UserError(
                f"There is no record, checkpoint or folder {run}; `python -m benchmarks run` makes the folder results."
            )
    if asked.train and not (asked.gif or asked.webp):
        raise UserError("--train takes the frames of an animation; add --gif or --webp.")
    if asked.output:
        cli.writable(asked.output, remedy="give another as --output")


def found(named: tuple[Path, ...]) -> list[Path]:
    """The checkpoints that are meant, each once: a record's, and all files of a folder that end in .h5."""
    # A name that begins with a dot is that of a file that is being written.
    paths = [path for run in named for path in (sorted(run.glob("[!.]*.h5")) if run.is_dir() else [checkpoint_of(run)])]
    return list(dict.fromkeys(paths))


def checkpoint_of(run: Path) -> Path:
    """A record's checkpoint, which stands beside it; another path is the checkpoint's own."""
    if run.suffix != ".json":
        return run
    if checkpoint := records.checkpoint_beside(run, records.read(run)):
        return checkpoint
    raise UserError(f"The record {run} was renamed or copied, so that its checkpoint is unknown; give the .h5 file.")


def of_training(path: Path, *, anew: bool, settings: dict[str, Any]) -> list[Look]:
    """The frames of a run's animation. Raises `UserError` where the run kept no checkpoints."""
    if anew:
        return looks.of_training(path, **settings)
    kept = jobs.kept(path)
    if not kept:
        raise UserError(
            f"{path} has no earlier checkpoints beside it; train with --keep-checkpoints, "
            "or add --train, which trains the model again for the animation alone."
        )
    return looks.of_each(kept, **settings)


def described(look: Look) -> str:
    """What a picture shows, in one line."""
    plane = "; manifold and posterior means" if look.means is not None else ""
    return (
        f"{pictures.named(look)}, {pictures.reached(look)}; {len(look.originals)} test images, their reconstructions, "
        f"{len(look.samples)} samples{plane}; {look.active} of {len(look.kl)} latent dimensions active"
    )


def compare(shown: list[tuple[Checkpoint, Look, Path]]) -> None:
    """One sheet of all runs, beside the first one's picture; none where their data sets differ."""
    found, looked, paths = zip(*shown, strict=True)
    if len({checkpoint.sha256 for checkpoint in found}) > 1:
        print("The runs have different data sets: no sheet compares them.", file=sys.stderr)
        return
    target = paths[0].with_name(COMPARISON)
    write_bytes(target, pictures.png(pictures.comparison(looked, labels=labels(found))))
    print(f"{target}: {len(looked)} models, the same test images for each")


def labels(found: tuple[Checkpoint, ...]) -> list[str]:
    """Backend and family of each run, and the settings of training in which the runs differ."""
    flat = [presets.flat(checkpoint.config) for checkpoint in found]
    apart = (*SECTIONS["evaluation"], "variational")
    differ = [name for name in flat[0] if name not in apart and len({str(settings[name]) for settings in flat}) > 1]
    return [
        ", ".join(
            [
                f"{checkpoint.backend} {checkpoint.config.model.variational}",
                *(f"{name.replace('_', '-')} {settings[name]}" for name in differ),
            ]
        )
        for checkpoint, settings in zip(found, flat, strict=True)
    ]
