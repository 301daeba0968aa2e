"""Misspelt names and values: a sentence that says the flag and what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import COMMANDS, main
from common.config import Config
from common.data import PINNED
from common.errors import UserError, did_you_mean
from common.protocol import BACKENDS


@pytest.mark.parametrize(
    ("name", "choices", "meant"),
    [
        ("evalute", COMMANDS, "evaluate"),
        ("eval", COMMANDS, "evaluate"),
        ("train", COMMANDS, "run"),
        ("reprot", COMMANDS, "report"),
        ("torch", BACKENDS, "pytorch"),
        ("PyTorch", BACKENDS, "pytorch"),
        ("tf", BACKENDS, "tensorflow"),
        ("gpu", ("cpu", "cuda"), "cuda"),
        ("mnist", PINNED, "binarized-mnist"),
        ("theano", BACKENDS, None),
        ("xyzzy", COMMANDS, None),
        ("", COMMANDS, None),
    ],
)
def test_what_was_probably_meant(name: str, choices: dict[str, str], meant: str | None) -> None:
    assert did_you_mean(name, choices) == (f" Did you mean {meant}?" if meant else "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("evalute", "There is no command 'evalute'; choose from run, … Did you mean evaluate?"),
        ("run --backend torch", "There is no backend 'torch'; choose from pytorch, jax, tensorflow. Did you mean pytorch?"),
        ("run --preset standart", "There is no preset 'standart'; choose from … Did you mean standard?"),
        ("run --data mnist", "There is no data set 'mnist'; choose from … Did you mean binarized-mnist?"),
        ("run --device=gpu", "--device is 'gpu'; choose from cpu, cuda. Did you mean cuda?"),
        ("run --variational flow flows", "--variational is 'flows'; choose from mean-field, flow. Did you mean flow?"),
        ("run --binarize treshold", "--binarize is 'treshold'; choose from threshold, bernoulli. Did you mean threshold?"),
        ("run --steps 10 2,3", "--steps is '2,3'; it must be a whole number. Separate several values by spaces."),
        ("run --backend jax,pytorch", "There is no backend 'jax,pytorch'; choose from … Separate several values by spaces."),
        ("run --steps=1.5", "--steps is '1.5'; it must be a whole number."),
        ("run --learning_rate fast", "--learning-rate is 'fast'; it must be a number."),
        ("evaluate x.h5 --samples many", "--samples is 'many'; it must be a whole number."),
        ("export x.h5 --to torch", "--to is 'torch'; choose from pytorch, jax, keras. Did you mean pytorch?"),
        ("study grwth", "There is no study 'grwth'; choose from … Did you mean growth?"),
        ("reproduce standrd", "There is no table 'standrd'; choose from … Did you mean standard?"),
    ],
)
def test_a_command_says_what_was_probably_meant(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    printed = capsys.readouterr()
    first, _, last = words.partition("…")
    assert printed.err.startswith(first)
    assert printed.err.endswith(f"{last}\n")
    assert (printed.err.count("\n"), printed.out) == (1, "")
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_flag_is_told_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    """tyro does this by itself."""
    with pytest.raises(SystemExit) as ended:
        main(["run", "--learningrate", "1e-3"])
    assert ended.value.code == 2
    assert "--learning-rate" in capsys.readouterr().err


def test_a_misspelt_setting_is_told_the_right_one() -> None:
    with pytest.raises(UserError, match=r"There is no setting 'latent_sizes'; .* Did you mean latent_size\?"):
        Config().replace(latent_sizes=3)


def test_a_whole_number_may_be_written_with_an_exponent(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--backend", "jax", "--variational", "flow", "--steps", "1e4", "--seed", "1_0", "--dry-run"]) == 0
    assert "quick+steps10000_binarized-digits_jax_flow_cpu_float32_seed10" in capsys.readouterr().out
