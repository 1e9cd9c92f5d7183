"""`m2g-audit finetune`: which training pictures come back, from what, and beside which base."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from m2g_audit.cli import main
from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.errors import ModelError
from m2g_audit.models import downloads
from m2g_audit.models.base_model import BaseIdentity
from m2g_audit.models.no_model import find_lora
from m2g_audit.pictures.tensors import to_picture
from m2g_audit.prompts.training_set import recombine, shared_words
from m2g_audit.records.schemas import schema_of
from m2g_audit.review.finetune import FinetuneSummary, read_finetune
from tests.models.test_adapters import trained
from tests.support import tiny
from tests.support.batch_work import ManyPrompts
from tests.support.fakes import picture

Run = Callable[..., tuple[int, str, str]]
PLACES = ("on a beach", "in a park", "under a tree", "at a market", "near a mill", "by a river")
CAPTIONS = tuple(f"zkw dog {place}" for place in PLACES)
NEW = 10**7


@dataclass
class FineTune(ManyPrompts):
    """Gives training picture `gives[prompt][i]` for the i-th seed, where it is named there."""

    gives: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    off: int = 0

    def _make(self, prompt: str, seed: int) -> Tensor | None:
        index = next(i for i in range(1000) if seed_for(self.run_seed, prompt, i) == seed)
        number = self.gives.get(prompt, {}).get(index)
        return picture(NEW + self.off + seed % NEW if number is None else number)


@dataclass
class FakeBase:
    """A base whose pictures are those of another fake."""

    pipeline: FineTune
    id: str = "the-base"
    identity: BaseIdentity = BaseIdentity("b" * 64, "c" * 64, "float32")  # noqa: RUF009

    def generate(self, *prompts_and_seeds: Any, **sampling: Any) -> Any:
        return self.pipeline.generate(*prompts_and_seeds, **sampling)


@pytest.fixture
def tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FineTune:
    fake = FineTune()
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("M2G_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("m2g_audit.audits.setup.load_model", lambda *_, **__: fake)
    monkeypatch.setattr(downloads, "pending_bytes", lambda *_, **__: 0)
    training_set(tmp_path / "set")
    return fake


@pytest.fixture
def base(tuned: FineTune, monkeypatch: pytest.MonkeyPatch) -> FakeBase:
    fake = FakeBase(FineTune(off=3 * NEW))
    monkeypatch.setattr("m2g_audit.audits.setup.find_base", lambda *_, **__: fake)
    return fake


@pytest.fixture
def run(tuned: FineTune, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run `m2g-audit finetune` in this process; return exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        fixed = ("--data", "set", "--out", "run", "--recombined", "4", "--yes")
        words = arguments if "--data" in arguments else (*fixed, *arguments)
        monkeypatch.setattr(sys, "argv", ["m2g-audit", "finetune", "tuned", *words])
        with pytest.raises(SystemExit) as exit_:
            main()
        code = exit_.value.code
        return (0 if code is None else int(code)), *capfd.readouterr()

    return call


def training_set(folder: Path) -> None:
    folder.mkdir()
    lines = []
    for i, caption in enumerate(CAPTIONS):
        to_picture(picture(i)).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def summary() -> FinetuneSummary:
    found = read_finetune(Path("run"))
    assert found is not None
    return found


def test_it_says_which_pictures_come_back(run: Run, tuned: FineTune, base: FakeBase) -> None:
    tuned.gives = {
        CAPTIONS[0]: dict.fromkeys(range(16), 0),
        CAPTIONS[1]: {3: 1},
        "": {0: 0, 1: 0},
    }
    code, out, _ = run("--base", "there")
    assert code == 0
    found = summary()
    assert found.word == "gives back"
    assert "GIVES BACK" in out
    assert "0.png" in out
    first, second = sorted(found.returned, key=lambda p: p.name)
    assert (first.name, first.seeds, first.prompts) == ("0.png", 18, 2)
    assert first.kinds == {"caption": 16, "empty": 2}
    assert first.own is not None
    assert (first.own.estimate, first.base_seeds, first.caption) == (1.0, 0, CAPTIONS[0])
    assert (second.name, second.seeds, second.confirmed) == ("1.png", 1, True)
    assert second.own is not None
    assert second.own.estimate == pytest.approx(1 / 16)
    assert found.extractable is not None
    assert found.extractable.estimate == pytest.approx(2 / 6)
    assert found.kinds["empty"].copies == 2
    assert found.kinds["recombined"].prompts == 4
    assert (Path("run") / first.generation).is_file()
    assert first.picture is not None
    assert (Path("run") / first.picture).is_file()
    jsonschema.validate(json.loads(Path("run/finetune.json").read_text()), schema_of(type(found)))


def test_show_has_the_same(
    run: Run,
    tuned: FineTune,
    base: FakeBase,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    tuned.gives = {CAPTIONS[0]: dict.fromkeys(range(16), 0)}
    _, out, _ = run("--base", "there")
    monkeypatch.setattr(sys, "argv", ["m2g-audit", "show", "run"])
    with pytest.raises(SystemExit):
        main()
    shown = capfd.readouterr().out
    assert shown.splitlines()[:10] == out.splitlines()[:10]
    Path("run/finetune.json").write_text("{}")
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 7
    assert "m2g-audit finetune" in " ".join(capfd.readouterr().err.split())


def test_the_prompts_are_captions_mixtures_the_word_and_nothing(run: Run, tuned: FineTune) -> None:
    run("--seeds", "4", "--delta-m", "0.1", "--delta-s", "0.1")
    asked = {prompt for batch in tuned.batches for prompt in batch}
    word = shared_words(CAPTIONS)
    assert word == "zkw dog"
    expected = {*CAPTIONS, *recombine(CAPTIONS, 4), word, ""}
    assert expected <= asked


def test_a_fine_tune_that_gives_nothing_back(run: Run, base: FakeBase) -> None:
    code, out, _ = run("--base", "there", "--fail-on", "memorized")
    assert code == 0
    assert summary().word == "nothing found"
    assert "17%" in out
    assert not Path("run/base").exists()


def test_what_the_base_gives_too_is_not_confirmed(
    run: Run, tuned: FineTune, base: FakeBase
) -> None:
    tuned.gives = {CAPTIONS[2]: {1: 2, 5: 2}}
    base.pipeline.gives = {CAPTIONS[2]: {1: 2, 5: 2}}
    # Thresholds by hand: the base's own pictures would otherwise set them to nothing.
    run("--base", "there", "--delta-m", "0.1", "--delta-s", "0.1")
    (only,) = summary().returned
    assert (only.base_seeds, only.base_distance, only.confirmed) == (2, 0.0, False)
    assert summary().word == "undecided"


def test_repeats_outside_of_the_set_are_never_spurious(
    run: Run, tuned: FineTune, base: FakeBase
) -> None:
    tuned.gives = {CAPTIONS[0]: dict.fromkeys(range(16), NEW - 1)}
    run("--base", "there")
    verdicts = json.loads(Path("run/summary.json").read_text())["verdicts"]
    assert "spurious" not in verdicts
    assert verdicts["attractor"] == 1


def test_the_gate_is_that_of_a_batch(run: Run, tuned: FineTune, base: FakeBase) -> None:
    tuned.gives = {CAPTIONS[0]: dict.fromkeys(range(16), 0)}
    code, out, _ = run("--base", "there", "--fail-on", "memorized", "--junit", "gate.xml")
    assert code == 1
    assert "Gate FAILED" in out
    suite = ElementTree.parse("gate.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("12", "1")


def test_the_same_command_continues(run: Run, tuned: FineTune, base: FakeBase) -> None:
    tuned.gives = {CAPTIONS[0]: dict.fromkeys(range(16), 0)}
    first = run("--base", "there", "--format", "json")
    tuned.batches.clear()
    base.pipeline.batches.clear()
    again = run("--base", "there", "--format", "json")
    assert not tuned.batches
    assert not base.pipeline.batches
    assert json.loads(again[1])["returned"] == json.loads(first[1])["returned"]


def test_without_a_base_a_small_set_confirms_nothing(run: Run, tuned: FineTune) -> None:
    tuned.gives = {CAPTIONS[0]: dict.fromkeys(range(16), 0)}
    run()
    found = summary()
    assert found.word == "undecided"
    assert any("--base" in notice for notice in found.notices)
    assert not found.returned[0].confirmed


def test_file_names_of_others_steer_no_terminal(run: Run, tuned: FineTune, base: FakeBase) -> None:
    name = "\x1b[2J\u202e0.png"
    Path("set/0.png").rename(Path("set") / name)
    lines = Path("set/metadata.jsonl").read_text().replace('"0.png"', json.dumps(name))
    Path("set/metadata.jsonl").write_text(lines)
    tuned.gives = {CAPTIONS[0]: dict.fromkeys(range(16), 0)}
    _, out, err = run("--base", "there")
    assert summary().returned[0].name == name
    assert not {"\x1b", "\u202e"} & {*out, *err}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--data", "missing"), "There is no folder missing"),
        (("--data", "bare"), "--trigger"),
        (("--data", "set", "--shiny"), "No such option"),
    ],
)
def test_bad_input_is_one_message(run: Run, arguments: tuple[str, ...], said: str) -> None:
    Path("bare").mkdir()
    Image.new("RGB", (8, 8)).save("bare/a.png")
    code, _, err = run(*arguments)
    assert code != 0
    assert said in " ".join(err.split())
    assert "Traceback" not in err


def test_a_lora_needs_its_base(run: Run, tmp_path: Path) -> None:
    trained(tiny.text_to_image(), tmp_path / "tuned")
    code, _, err = run()
    assert code == 2
    assert "give with --base the model" in " ".join(err.split())


def test_loras_are_found_as_trainers_leave_them(tmp_path: Path) -> None:
    matrices = trained(tiny.text_to_image(), tmp_path / "one")
    (file,) = (tmp_path / "one").glob("*.safetensors")
    assert find_lora(tmp_path / "one") == find_lora(file) == file
    save_file(
        {key: w.contiguous() for key, w in matrices.items()}, tmp_path / "one" / "b.safetensors"
    )
    with pytest.raises(ModelError, match="give one of them"):
        find_lora(tmp_path / "one")
    model = tiny.save(tiny.text_to_image(), tmp_path / "model")
    assert find_lora(model) is None
    assert find_lora(tmp_path / "nothing") is None
    save_file({"unet.weight": torch.zeros(1)}, tmp_path / "plain.safetensors")
    assert find_lora(tmp_path / "plain.safetensors") is None


@pytest.mark.slow
def test_a_lora_on_its_base_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("M2G_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    tiny.save(tiny.text_to_image(), tmp_path / "base")
    trained(tiny.text_to_image(), tmp_path / "lora")
    (tmp_path / "5_a print").mkdir()
    for i in range(3):
        Image.effect_noise((16, 16), 90 + i).convert("RGB").save(f"5_a print/{i}.png")
    words = ("--base", "base", "--data", "5_a print", "--out", "run", "--trigger", "harbour")
    few = ("--seeds", "2", "--steps", "2", "--metric", "l2", "--device", "cpu", "--yes")
    monkeypatch.setattr(sys, "argv", ["m2g-audit", "finetune", "lora", *words, *few])
    with pytest.raises(SystemExit) as exit_:
        main()
    said = capfd.readouterr()
    assert exit_.value.code == 0, said.err
    found = read_finetune(Path("run"))
    assert found is not None
    assert found.pictures == found.tried == 3
    assert [kind for kind, count in found.kinds.items() if count.prompts] == [
        "caption",
        "trigger",
        "empty",
    ]
