"""What generations are judged by: which rule gives thresholds, what is refused, what is said."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from m2g_audit.audits.options import AuditOptions
from m2g_audit.audits.setup import set_up
from m2g_audit.audits.threshold_sources import FEW
from m2g_audit.audits.yardstick import Yardstick
from m2g_audit.audits.yardstick_search import find_yardstick
from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.errors import ModelError, NumericsError, UsageError
from m2g_audit.models.protocol import Generations
from m2g_audit.progress import silent
from m2g_audit.references import power
from m2g_audit.references.nulls import Nulls
from m2g_audit.references.plants import Plants
from m2g_audit.references.reference import ReferenceSet
from m2g_audit.similarity import Metric, distances, load_metric
from m2g_audit.verdict.looks import Look
from m2g_audit.verdict.rule import Doubt, Grounds, Samples, Verdict, judge
from m2g_audit.verdict.states import S_PRIME
from m2g_audit.verdict.thresholds import LOOSE_ALPHA, STRICT_ALPHA, Rule, Thresholds, low_quantile
from tests.support.fakes import FakePipeline, picture
from tests.support.setups import fake_setup

L2 = load_metric("l2")
PROMPT = "a print of the old harbour"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))


def levels(numbers: Sequence[int]) -> Tensor:
    return (torch.stack([picture(n) for n in numbers]) * 255).round().to(torch.uint8)


def pictures(
    images: Tensor | Sequence[int], captions: Sequence[str | None] = (), name: str = "folder"
) -> ReferenceSet:
    """Return a folder's pictures, of these numbers or as they are given, without a folder."""
    if not isinstance(images, Tensor):
        images = levels(images)
    names = [f"{i}.png" for i in range(len(images))]
    sha256 = f"{zlib.crc32(images.numpy().tobytes())} {captions}"
    return ReferenceSet(images, names, source=name, sha256=sha256, captions=captions)


@dataclass
class Base(FakePipeline):
    """A model that another one was fine-tuned from."""

    id: str = "the-base"
    identity = replace(FakePipeline.identity, sha256="b" * 64)  # type: ignore[assignment]


def find(
    reference: ReferenceSet | None = None,
    unseen: ReferenceSet | None = None,
    *,
    pipeline: FakePipeline | None = None,
    base: Base | None = None,
    metric: Metric = L2,
    prompts: Sequence[str] = (PROMPT,),
    **options: object,
) -> Yardstick:
    setup = fake_setup(pipeline or FakePipeline(PROMPT, []), **options)
    settings = setup.settings
    if reference is not None:
        settings = settings.model_copy(update={"reference": reference.source})
    setup = replace(setup, settings=settings, base=base, metric=metric)  # type: ignore[arg-type]
    return find_yardstick(setup, reference, unseen, prompts, silent)


def given_plants(
    monkeypatch: pytest.MonkeyPatch, to_reference: float = 0.01, between: float = 0.01
) -> None:
    """Let all plants be as far from S, and from each other, as is given."""
    made = Plants(np.full(256, to_reference), np.full(128, between), {})
    monkeypatch.setattr(power, "plant", lambda *_, **__: made)


def to_rest(images: Tensor) -> np.ndarray:
    embedded = L2.embed(images)
    apart = distances(L2, embedded, embedded)
    np.fill_diagonal(apart, np.inf)
    return apart.min(axis=1)


# -- from pictures


def test_the_reference_itself_gives_thresholds() -> None:
    s = pictures(range(FEW + 20))
    found = find(s)
    thresholds = found.thresholds
    assert (thresholds.rule, thresholds.calibrated) == (Rule.LEAVE_ONE_OUT, True)
    assert thresholds.n_controls == FEW + 20
    null = to_rest(levels(range(FEW + 20)))
    assert thresholds.delta_m == pytest.approx(low_quantile(null))
    assert thresholds.ratio is not None
    assert 0 < thresholds.ratio < 1
    assert "1% quantiles of the distance of 520 pictures of the reference" in thresholds.source
    assert found.notes == ()
    assert found.power is not None
    assert found.power.suffices
    assert found.thumb is not None
    assert found.plants is not None
    assert found.plants.to_reference is not None
    assert found.near_duplicates == power.high_quantile(found.plants.to_reference) < 0.15


def test_distances_within_the_reference_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    s = pictures(range(130), captions=["one"] * 130)
    first = find(s)

    def find_nulls(*_: object) -> Nulls:
        raise RuntimeError("taken again")

    monkeypatch.setattr("m2g_audit.audits.threshold_sources.find_nulls", find_nulls)
    assert find(s).thresholds == first.thresholds
    for changed in (replace(s, sha256="other"), replace(s, captions=[None] * 130)):
        with pytest.raises(RuntimeError, match="again"):
            find(changed)
    with pytest.raises(RuntimeError, match="again"):
        find(s, metric=load_metric("tiled_l2"))


def test_the_same_at_other_quantiles_is_kept() -> None:
    others = find(pictures(range(400))).thresholds.others
    null = to_rest(levels(range(400)))
    assert others[STRICT_ALPHA][0] == pytest.approx(low_quantile(null, STRICT_ALPHA))
    assert others[LOOSE_ALPHA][0] == pytest.approx(low_quantile(null, LOOSE_ALPHA))


def test_without_captions_delta_s_is_never_above_delta_m() -> None:
    """Random pictures are less alike than those of one prompt."""
    thresholds = find(pictures(range(150))).thresholds
    assert thresholds.delta_s == thresholds.delta_m  # among 16 pictures are farther apart
    for delta_m, delta_s in thresholds.others.values():
        assert delta_s == delta_m
    assert "16 of the pictures" in thresholds.source


def alike(count: int, seed: int = 0, spread: float = 0.25) -> Tensor:
    """Return pictures that are all much the same: about 0.1 apart."""
    rng = np.random.default_rng(seed)
    grey = (128 + spread * rng.integers(-128, 128, (count, 1, 8, 8))).astype(np.uint8)
    return torch.from_numpy(grey).repeat(1, 3, 1, 1)


def test_delta_s_comes_from_within_captions_where_they_have_pictures_enough() -> None:
    """Of many captions' pictures those of one are alike; what all are apart is then too lax."""
    mixed = torch.cat([alike(120), levels(range(400))])
    captions = ["a hill"] * 120 + [f"caption {i}" for i in range(400)]
    with_captions = find(pictures(mixed, captions)).thresholds
    assert "16 pictures of one caption" in with_captions.source
    hills = find(pictures(alike(120))).thresholds
    assert with_captions.delta_s == pytest.approx(hills.delta_m, rel=0.25)
    wide = find(
        pictures(torch.cat([alike(120, spread=0.5), alike(120, 1)]), ["a"] * 120 + [""] * 120)
    )
    assert wide.thresholds.delta_s > wide.thresholds.delta_m  # type: ignore[operator]


def test_under_500_pictures_planted_copies_hold_thresholds_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_plants(monkeypatch, between=0.14)
    for count, held in ((FEW - 1, True), (FEW, False)):
        thresholds = find(pictures(alike(count), ["a hill"] * count)).thresholds
        assert (thresholds.delta_s == 0.14) == held
        assert ("held up by planted copies" in thresholds.source) == held
    all_captions = find(pictures(alike(FEW - 1))).thresholds
    assert all_captions.delta_s == all_captions.delta_m < 0.14  # type: ignore[operator]


def test_a_model_that_can_not_redraw_pictures_makes_no_copies_of_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one distilled to a few steps: its plants are no copies, and hold nothing up so far."""
    given_plants(monkeypatch, between=0.38)
    found = find(pictures(alike(FEW - 1), ["a hill"] * (FEW - 1)))
    assert found.thresholds.delta_s == 0.15
    assert found.power is not None
    assert not found.power.suffices


def test_near_duplicates_of_the_reference_are_said_and_counted_once() -> None:
    many = [*range(150), *range(30)]
    found = find(pictures(many))
    assert found.thresholds.n_controls == 150
    assert found.thresholds.delta_m == find(pictures(range(150))).thresholds.delta_m
    assert any("30 of 180 pictures of the reference near-duplicate" in note for note in found.notes)


def test_unseen_pictures_go_before_the_references_own() -> None:
    found = find(pictures(range(300)), pictures(range(1000, 1150), name="held-out")).thresholds
    assert (found.rule, found.n_controls) == (Rule.UNSEEN, 150)
    embedded = L2.embed(levels(range(1000, 1150))), L2.embed(levels(range(300)))
    expected = low_quantile(distances(L2, *embedded).min(axis=1))
    assert found.delta_m == pytest.approx(expected)
    assert "150 unseen pictures (held-out)" in found.source


def test_unseen_pictures_that_are_in_the_reference_are_refused_by_name() -> None:
    overlap = [*range(1000, 1150), 7, 8]
    with pytest.raises(UsageError) as refused:
        find(pictures(range(300)), pictures(overlap))
    assert "2 of 152 unseen pictures are in the reference" in str(refused.value)
    assert "150.png, 151.png" in str(refused.value)


def test_of_many_that_overlap_some_are_named_and_the_others_counted() -> None:
    with pytest.raises(UsageError, match=r"9\.png and 190 more\."):
        find(pictures(range(300)), pictures(range(200)))


def test_one_percent_of_overlap_is_left_out_and_said() -> None:
    found = find(pictures(range(300)), pictures([7, *range(1000, 1150)]))
    assert found.thresholds.n_controls == 150
    assert any("1 of 151 unseen pictures" in note and "0.png" in note for note in found.notes)


@pytest.mark.parametrize(("of_another_kind", "said"), [(True, "too lax"), (False, "too strict")])
def test_unseen_pictures_of_another_kind_are_said(of_another_kind: bool, said: str) -> None:
    narrow, wide = pictures(alike(150)), pictures(torch.cat([levels(range(150)), alike(1, 9)]))
    if of_another_kind:
        found = find(narrow, pictures(range(1000, 1120)))
    else:
        found = find(wide, pictures(alike(120, 5, spread=0.15)))
    assert any("another kind" in note and said in note for note in found.notes)


def test_unseen_pictures_of_the_same_kind_need_no_remark() -> None:
    assert find(pictures(range(300)), pictures(range(1000, 1150))).notes == ()


# -- too few pictures


def test_under_99_pictures_a_rule_of_thumb_stands_in_and_that_is_said() -> None:
    few, enough = find(pictures(range(98))), find(pictures(range(99)))
    assert (few.thresholds.rule, few.thresholds.calibrated) == (Rule.RULE_OF_THUMB, False)
    assert any("Only 98 pictures are left" in note and "--unseen" in note for note in few.notes)
    assert few.reference is not None
    assert few.near_duplicates is None
    assert enough.thresholds.rule == Rule.LEAVE_ONE_OUT


def test_near_duplicates_do_not_make_a_reference_large() -> None:
    found = find(pictures([*range(60), *range(60)]))
    assert found.thresholds.rule == Rule.RULE_OF_THUMB
    assert any("60 of 120" in note for note in found.notes)
    assert any("Only 60 pictures" in note for note in found.notes)
    only = find(pictures([1] * 120))
    assert any("Only 0 pictures" in note for note in only.notes)


def test_few_unseen_pictures_do_not_fall_back_on_the_reference() -> None:
    found = find(pictures(range(300)), pictures(range(1000, 1050)))
    assert found.thresholds.rule == Rule.RULE_OF_THUMB
    assert any("Only 50 pictures" in note for note in found.notes)


def test_with_few_pictures_a_base_gives_thresholds_up_to_the_rule_of_thumb() -> None:
    found = find(pictures(range(20)), base=Base(PROMPT, range(500, 516))).thresholds
    assert (found.rule, found.calibrated, found.n_controls) == (Rule.BASE, True, 208)
    assert (found.delta_m, found.delta_s) == (0.15, 0.15)
    # A base whose pictures come nearer to each other and to S than that.
    narrow = Base(PROMPT, [5] * 16, others=lambda prompt, seed: 6)
    lower = find(pictures(range(5, 25)), base=narrow).thresholds
    assert (lower.delta_m, lower.delta_s) == (0.0, 0.0)


# -- without pictures


def test_a_base_says_how_far_pictures_are_apart_where_nothing_was_added() -> None:
    base = Base(PROMPT, range(16))
    found = find(base=base).thresholds
    assert (found.rule, found.calibrated, found.delta_m) == (Rule.BASE, True, None)
    assert found.n_controls == 13 * S_PRIME
    assert "208 pictures of the base the-base" in found.source
    assert found.delta_s > 0.15  # type: ignore[operator]  # no picture of S, so no cap
    assert base.made == list(range(16))  # the audited prompt is one of them
    assert len(set(base.made_of_others)) == 12


def test_the_bases_prompts_are_those_audited_first() -> None:
    base = Base(PROMPT, range(16))
    find(base=base, prompts=["one", "two", "one"])
    assert {"one", "two"} <= set(base.made_of_others)
    assert len(set(base.made_of_others)) == 13
    many = Base(PROMPT, range(16))
    listed = [f"prompt {i}" for i in range(40)]
    find(base=many, prompts=listed)
    assert set(many.made_of_others) < set(listed)
    assert len(set(many.made_of_others)) == 13


class Black(Base):
    """Its pictures are black."""

    def generate(self, *arguments: object, **options: object) -> Generations:  # type: ignore[override]
        made = super().generate(*arguments, **options)  # type: ignore[arg-type]
        return replace(made, images=torch.zeros_like(made.images))


def test_a_base_that_gives_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="Only 0 pictures of the base the-base"):
        find(base=Black(PROMPT, range(16)))


def control_file(tmp_path: Path, count: int = 10) -> Path:
    file = tmp_path / "controls.txt"
    file.write_text("\n".join(f"ordinary {i}" for i in range(count)))
    return file


def repeat_each_prompt(prompt: str, seed: int) -> int:
    return zlib.crc32(prompt.encode())


def test_control_prompts_of_the_model_give_thresholds_if_they_are_asked_for(
    tmp_path: Path,
) -> None:
    file = control_file(tmp_path)
    found = find(control_prompts=file)
    thresholds = found.thresholds
    assert (thresholds.rule, thresholds.calibrated, thresholds.delta_m) == (
        Rule.CONTROLS,
        True,
        None,
    )
    among = []
    for i in range(10):
        seeds = [seed_for(0, f"ordinary {i}", k) for k in range(S_PRIME)]
        among += to_rest(levels(seeds)).tolist()
    assert thresholds.delta_s == pytest.approx(low_quantile(among))
    assert thresholds.n_controls == 160
    assert found.findings is not None
    assert (found.findings.prompts, found.findings.seeds) == (10, S_PRIME)


def test_control_results_that_are_kept_do_not_enter_an_audit_unasked() -> None:
    assert find(controls=True).thresholds.rule == Rule.CONTROLS
    found = find()
    assert found.thresholds.rule == Rule.RULE_OF_THUMB
    assert not found.thresholds.calibrated


def test_control_prompts_of_a_model_that_repeats_for_them_give_no_thresholds(
    tmp_path: Path,
) -> None:
    """Thresholds taken from them would shrink until nothing counts."""
    repeating = FakePipeline(PROMPT, [], others=repeat_each_prompt)
    found = find(pipeline=repeating, control_prompts=control_file(tmp_path))
    assert (found.thresholds.rule, found.thresholds.delta_s) == (Rule.RULE_OF_THUMB, 0.15)
    assert not found.thresholds.calibrated
    assert any("repeat too, so they can set no threshold" in note for note in found.notes)
    assert found.findings is not None
    assert found.findings.contaminated
    assert found.findings.collapsed


def test_a_few_control_prompts_that_repeat_are_enough(tmp_path: Path) -> None:
    def some(prompt: str, seed: int) -> int:
        return 5 if prompt in {f"ordinary {i}" for i in range(4)} else seed

    contaminated = FakePipeline(PROMPT, [], others=some)
    found = find(pipeline=contaminated, control_prompts=control_file(tmp_path))
    assert found.thresholds.rule == Rule.RULE_OF_THUMB
    assert found.findings is not None
    assert (found.findings.contaminated, found.findings.collapsed) == (True, False)


def test_too_few_control_prompts_are_said(tmp_path: Path) -> None:
    found = find(control_prompts=control_file(tmp_path, 6))
    assert found.thresholds.rule == Rule.RULE_OF_THUMB
    assert any("Only 96 pictures" in note for note in found.notes)


# -- by hand


def test_numbers_by_hand_go_before_all() -> None:
    found = find(
        pictures(range(300)),
        pictures(range(1000, 1150)),
        base=Base(PROMPT, range(16)),
        delta_m=0.2,
        delta_s=0.1,
    ).thresholds
    assert (found.delta_m, found.delta_s, found.rule) == (0.2, 0.1, Rule.BY_HAND)
    assert (found.calibrated, found.source, found.others) == (False, "given by hand", {})


def test_without_a_reference_delta_s_alone_is_enough() -> None:
    found = find(delta_s=0.1).thresholds
    assert (found.delta_m, found.delta_s) == (None, 0.1)


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"delta_m": 0.1}, True),
        ({"delta_s": 0.1, "reference": "folder"}, True),
        ({"delta_m": 0.1, "reference": "folder"}, True),
        ({"delta_s": 0.1, "model": "pocket"}, True),
        ({"delta_s": 0.1, "model": "pocket", "reference": "none"}, False),
        ({"delta_s": 0.1}, False),
        ({"delta_s": 0.1, "delta_m": 0.1, "reference": "folder"}, False),
        ({"delta_s": 0.1, "delta_m": 0.1}, False),
    ],
)
def test_a_threshold_by_hand_that_lacks_the_other_is_refused_at_once(
    tmp_path: Path, options: dict[str, object], refused: bool
) -> None:
    if options.get("reference") == "folder":
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        options = {**options, "reference": str(tmp_path)}
    asked = AuditOptions.of(**{"model": "fake", **options})
    stops = UsageError if refused else ModelError  # once the model is asked for
    said = "--delta-s, and with a reference --delta-m too" if refused else "was asked for"
    with pytest.raises(stops, match=said):
        set_up(asked, load=Mock(side_effect=ModelError("The model was asked for.")))


# -- what the model does for any prompt


def test_a_probe_shows_what_the_model_does_for_ordinary_prompts() -> None:
    pipeline = FakePipeline(PROMPT, [])
    found = find(pictures(range(150)), pipeline=pipeline).findings
    assert found is not None
    assert (found.prompts, found.seeds) == (16, 2)
    assert len(pipeline.made_of_others) == 32
    assert (found.contaminated, found.collapsed) == (False, False)


def test_a_model_that_copies_for_any_prompt_is_contaminated_and_keeps_its_thresholds() -> None:
    """Thresholds are never lowered to make control prompts pass."""
    copying = FakePipeline(PROMPT, [], others=lambda prompt, seed: seed % 150)
    found, clean = find(pictures(range(150)), pipeline=copying), find(pictures(range(150)))
    assert found.findings is not None
    assert found.findings.contaminated
    assert not found.findings.collapsed
    assert found.thresholds == clean.thresholds


def test_a_model_whose_seeds_do_nothing_is_collapsed() -> None:
    repeating = FakePipeline(PROMPT, [], others=repeat_each_prompt)
    for reference in (None, pictures(range(150))):
        found = find(reference, pipeline=repeating).findings
        assert found is not None
        assert found.collapsed


def test_what_was_found_out_is_kept() -> None:
    s, first, again = pictures(range(150)), FakePipeline(PROMPT, []), FakePipeline(PROMPT, [])
    assert find(s, pipeline=first).thresholds == find(s, pipeline=again).thresholds
    assert again.made_of_others == []
    other = FakePipeline(PROMPT, [])
    find(pictures(range(151)), pipeline=other)
    assert len(other.made_of_others) == 32  # their distance to another reference


# -- power


class Brightness(Metric):
    """A histogram of one colour: how bright a picture is. It can't see what is on it."""

    name = "l2"  # of which there is a rule of thumb

    def _embed(self, images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3))[:, None, None]


def black(made: Generations, rows: Sequence[int]) -> Generations:
    images = made.images.clone()
    images[[row for row in rows if row < len(images)]] = 0
    return replace(made, images=images)


def test_blank_pictures_are_not_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a blank picture all versions are alike, which would be power for nothing."""
    planted = []
    plant = power.plant
    monkeypatch.setattr(power, "plant", lambda *a, **k: planted.append(a[2]) or plant(*a, **k))
    of_others = FakePipeline._of_others
    monkeypatch.setattr(
        FakePipeline, "_of_others", lambda *arguments: black(of_others(*arguments), [1, 5])
    )
    find(delta_s=0.1)
    assert len(planted[0]) == 14
    monkeypatch.setattr(
        FakePipeline, "_of_others", lambda self, p, s: black(of_others(self, p, s), range(len(s)))
    )
    with pytest.raises(NumericsError, match="all blank"):
        find(delta_s=0.1, metric=load_metric("tiled_l2"))


class Unpublished(Brightness):
    name = "brightness"


def words(found: Yardstick, images: Tensor, metric: Metric) -> tuple[Verdict, tuple[Doubt, ...]]:
    embedded = metric.embed(images)
    nearest = None
    if found.reference is not None:
        nearest = np.array(found.reference.nearest(metric, images)[0])
    samples = Samples(
        distances(metric, embedded, embedded), nearest, np.zeros(len(images), dtype=bool)
    )
    grounds = Grounds(
        power=None if found.power is None else found.power.suffices, thumb=found.thumb
    )
    judged = judge(samples, found.thresholds, Look(len(images)), grounds)
    return judged.word, judged.withheld


BLIND = Brightness()
MODES = {
    "rule of thumb": lambda: find(metric=BLIND),
    "leave-one-out": lambda: find(pictures(range(150)), metric=BLIND),
    "base": lambda: find(base=Base(PROMPT, range(16)), metric=BLIND),
    "base and few": lambda: find(pictures(range(20)), base=Base(PROMPT, range(16)), metric=BLIND),
    "own controls": lambda: find(controls=True, metric=BLIND),
    "by hand": lambda: find(delta_s=1e-6, metric=BLIND),
    "by hand, reference": lambda: find(
        pictures(range(150)), delta_s=1e-6, delta_m=1e-6, metric=BLIND
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_distance_that_sees_no_copies_clears_nothing(mode: str) -> None:
    """Thresholds that call new pictures new do not find plants, and say so."""
    found = MODES[mode]()
    new = torch.stack([picture(n) for n in range(5000, 5064)])
    word, withheld = words(found, new, BLIND)
    assert word != Verdict.GENERALIZED
    if found.thresholds.rule in (Rule.BASE, Rule.BY_HAND):
        assert word == Verdict.UNDECIDED
        assert Doubt.POWER in withheld
    if found.power is not None and found.power.suffices:
        assert word != Verdict.UNDECIDED  # all is called alike


def test_unseen_pictures_by_a_distance_that_sees_no_copies_are_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="another --metric may"):
        find(pictures(range(150)), pictures(range(1000, 1150)), metric=BLIND)
    with pytest.raises(UsageError) as refused:
        find(pictures(range(150)), pictures(range(140, 150)))
    assert "--metric" not in str(refused.value)


@pytest.mark.parametrize("reference", [None, pictures(range(150))], ids=["alone", "reference"])
def test_one_that_sees_them_clears_new_pictures_and_no_copies(
    reference: ReferenceSet | None,
) -> None:
    found = find(reference)
    new = torch.stack([picture(n) for n in range(5000, 5064)])
    assert words(found, new, L2) == (Verdict.GENERALIZED, ())
    if reference is not None:
        copies = torch.stack([picture(n) for n in range(64)])
        assert words(found, copies, L2)[0] == Verdict.MEMORIZED


@pytest.mark.parametrize("controls", [False, True])
def test_a_metric_without_a_rule_of_thumb_needs_something_else(controls: bool) -> None:
    """Nor can own control prompts be told from contaminated ones without a rule."""
    with pytest.raises(UsageError, match="Nobody has published"):
        find(metric=Unpublished(), controls=controls)
    by_base = find(metric=Unpublished(), base=Base(PROMPT, range(16)))
    assert (by_base.thresholds.rule, by_base.thumb) == (Rule.BASE, None)


# -- pocket


def test_a_caption_has_its_own_thresholds_where_there_are_some() -> None:
    pooled, own = (Thresholds("l2", x, x, "", 0, True) for x in (0.1, 0.2))
    both = Yardstick(None, pooled, by_caption={"a hill": own})
    assert both.of("a hill").thresholds == own
    assert both.of("a sea") == both


def pocket(
    monkeypatch: pytest.MonkeyPatch, *, sha256: str = "f" * 64, **options: object
) -> Yardstick:
    """Return the yardstick of `pocket`, with a table that knows one caption."""
    row = SimpleNamespace(caption=PROMPT)
    own, pooled = (Thresholds("l2", x, x, "fresh pictures", 256, True) for x in (0.2, 0.1))
    table = SimpleNamespace(
        metric="l2",
        model_sha256=sha256,
        thresholds=pooled,
        thresholds_of=lambda _: own,
        captions=(row,),
        false_memorized=lambda _: 0.0,
        plants=Plants(np.full(256, 0.05), np.full(128, 0.15), {}),
    )
    monkeypatch.setattr("m2g_audit.pocket.provenance.load_table", lambda _: table)
    return find(model="pocket", **options)


def test_pocket_brings_the_thresholds_of_each_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pocket(monkeypatch)
    assert found.of(PROMPT).thresholds.delta_s == 0.2
    assert found.of("another").thresholds.delta_s == 0.1
    assert found.of(PROMPT).thresholds.calibrated
    assert found.of(PROMPT).power.suffices  # type: ignore[union-attr]
    assert not found.of("another").power.suffices  # type: ignore[union-attr]


def test_other_weights_of_pocket_are_uncalibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pocket(monkeypatch, sha256="0" * 64).of(PROMPT).thresholds
    assert not found.calibrated
    assert "measured with other weights than these" in found.source


def test_by_another_distance_pocket_has_a_rule_of_thumb(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pocket(monkeypatch, metric=load_metric("tiled_l2")).thresholds
    assert (found.rule, found.metric) == (Rule.RULE_OF_THUMB, "tiled_l2")
