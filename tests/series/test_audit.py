"""Planted faults in simulated and real series are found; sound series have no findings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mi_sweeps.models.mini import FOLDER
from mi_sweeps.series import sample
from mi_sweeps.series.audit import Audit, Finding, audit
from mi_sweeps.series.sources import Source, folder
from tests.series.trajectories import CONSTANT, SHAPES, Weights, planted, series, source, stored, trajectory

STEPS = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 3000, 4000]


@pytest.fixture(scope="module")
def made() -> list[Weights]:
    """A clean series at STEPS."""
    return trajectory(np.random.default_rng(5), STEPS, "cosine")


def with_steps(made: list[Weights], **instead: Weights) -> list[Weights]:
    """The series with other weights at `at_8=...`."""
    places = {STEPS.index(int(name.removeprefix("at_"))): weights for name, weights in instead.items()}
    return [places.get(place, weights) for place, weights in enumerate(made)]


def at(made: list[Weights], step: int) -> Weights:
    return made[STEPS.index(step)]


def kinds(found: Audit) -> dict[int, str]:
    return {one.step: one.kind for one in found.findings}


def reason(found: Audit, step: int) -> str:
    return next(one.reason for one in found.findings if one.step == step)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_clean_series_has_no_findings_and_shows_how_far_weights_move(made: list[Weights], dtype: str) -> None:
    found = audit(series(STEPS, made, dtype))
    assert found.findings == ()
    assert [line.step for line in found.lines] == STEPS
    before, after = at(made, 512), at(made, 1000)
    content = stored({**before, **CONSTANT})
    read = sample.choose(sample.header("", len(content), lambda _, start, stop: content[start:stop]))
    assert len(read) == sample.MATRICES and set(read) < set(SHAPES)
    norms = [np.sum(np.square(before[name]) + np.square(after[name])) / 2 for name in read]
    moved = [np.sum(np.square(after[name] - before[name])) for name in read]
    expected = np.sqrt(np.mean(np.divide(moved, norms)))
    assert found.lines[STEPS.index(1000)].change == pytest.approx(expected, rel=0.001)
    assert found.lines[0].change is None


@pytest.mark.parametrize("seed", range(4))
def test_planted_faults_are_found_and_nothing_else_is(seed: int) -> None:
    random = np.random.default_rng(seed)
    made = trajectory(random, STEPS)
    for kind, instead in planted(random, STEPS, made).items():
        found = audit(series(STEPS, [instead.get(place, one) for place, one in enumerate(made)]), threads=1)
        assert set(found.missing_steps) == {STEPS[place] for place in instead}, kind


def test_copies_are_gaps_but_for_the_one_whose_neighbours_are_near(made: list[Weights]) -> None:
    copies = dict.fromkeys(("at_0", "at_1", "at_2", "at_4", "at_8", "at_256"), at(made, 4000))
    found = audit(series(STEPS, with_steps(made, **copies)))
    assert set(found.missing_steps) == {0, 1, 2, 4, 8, 256}
    assert (
        reason(found, 8) == "its weights are the same at steps 0, 1, 2 and 4 more up to 4000; they belong to step 4000"
    )


def test_a_published_pattern_most_branches_hold_the_end() -> None:
    """Of a third of the steps: those of the last everywhere at first and here and there later, in two files."""
    steps = [0, *(2**power for power in range(10)), *range(2000, 144000, 3000)]
    one_file = {0, *(2**power for power in range(10)), *range(1000, 54000, 1000), 55000, 103000}
    one_file |= {65000, *range(60000, 140000, 10000)}
    other_file = {54000, *range(56000, 60000, 1000), *range(61000, 65000, 1000), 143000}
    longer = trajectory(np.random.default_rng(3), steps, "cosine")
    end, elsewhere = stored(longer[-1], "F16"), stored(longer[-1], "F16", another="file")
    files = [
        end if step in one_file else elsewhere if step in other_file else stored(one, "F16")
        for step, one in zip(steps, longer, strict=True)
    ]
    found = audit([source(step, {"model.safetensors": file}) for step, file in zip(steps, files, strict=True)])
    wrong = {step for step in steps[:-1] if step in one_file | other_file}
    assert set(found.missing_steps) == wrong and len(wrong) > 0.5 * len(steps)
    assert set(found.missing_steps.values()) == {
        f"its weights are the same at steps 0, 1, 2 and {len(wrong) - 2} more up to 143000; they belong to step 143000"
    }


def test_copies_without_published_hashes_are_found_too(made: list[Weights]) -> None:
    same = with_steps(made, at_8=at(made, 1000))
    sources = [
        source(step, {"model.safetensors": stored(one)}, hashed=False) for step, one in zip(STEPS, same, strict=True)
    ]
    assert set(audit(sources).missing_steps) == {8}


def test_copies_in_files_that_differ_otherwise_are_copies(made: list[Weights]) -> None:
    """As one that was uploaded with other metadata, or with -0.0 for 0.0."""
    zero = {name: values.copy() for name, values in at(made, 4000).items()}
    for values in zero.values():
        values[0, 0] = 0.0
    files = [stored(one) for one in with_steps(made, at_4000=zero)]
    files[STEPS.index(16)] = stored(
        {name: np.where(one == 0, -0.0, one) for name, one in zero.items()}, other="metadata"
    )
    found = audit([source(step, {"model.safetensors": one}) for step, one in zip(STEPS, files, strict=True)])
    assert kinds(found) == {16: "copy"}


def test_a_first_step_without_training_is_no_second_point(made: list[Weights]) -> None:
    found = audit(series(STEPS, with_steps(made, at_1=at(made, 0))))
    assert found.missing_steps == {1: "its weights are the same at steps 0 and 1; nothing was learned since step 0"}


def test_if_it_is_undecided_which_copy_is_right_all_count_as_missing(made: list[Weights]) -> None:
    found = audit(series(STEPS, with_steps(made, at_2000=at(made, 1000))))
    assert set(found.missing_steps) == {1000, 2000}
    assert "either nothing was learned in between, or one is a copy of another" in found.missing_steps[1000]


def test_without_ranges_there_are_hashes_alone(made: list[Weights]) -> None:
    same = with_steps(made, at_8=at(made, 1000), at_1=at(made, 0))
    sources = [source(step, {"pytorch_model.bin": stored(one)}) for step, one in zip(STEPS, same, strict=True)]
    found = audit(sources)
    assert set(found.missing_steps) == {1, 8, 1000}
    assert (
        found.missing_steps[8] == "its weights are the same at steps 8 and 1000; which step they belong to is unknown"
    )
    assert all(line.change is None for line in found.lines)


def test_weights_like_those_of_a_step_far_away_say_which(made: list[Weights]) -> None:
    like = {name: 0.5 * at(made, 3000)[name] + 0.5 * at(made, 2000)[name] for name in SHAPES}
    found = audit(series(STEPS, with_steps(made, at_8=like)))
    assert kinds(found) == {8: "order"}
    assert "are out of order; nearest is step" in reason(found, 8)
    assert any(f"nearest is step {step} " in reason(found, 8) for step in (2000, 3000))


def test_neighbours_that_are_all_out_of_place_are_found(made: list[Weights]) -> None:
    steps = [*STEPS, *range(5000, 12000, 1000)]
    longer = trajectory(np.random.default_rng(6), steps, "constant")
    wrong = {4: 9000, 8: 10000, 16: 11000}
    mixed = [
        {name: 0.8 * longer[steps.index(wrong[step])][name] + 0.2 * longer[steps.index(8000)][name] for name in SHAPES}
        if step in wrong
        else one
        for step, one in zip(steps, longer, strict=True)
    ]
    assert kinds(audit(series(steps, mixed))) == dict.fromkeys(wrong, "order")


def test_a_file_of_another_step_makes_a_mixed_checkpoint(made: list[Weights]) -> None:
    sharded, last = series(STEPS, made, shards=3), series(STEPS, made, shards=3)[-1]
    first = "model-0-of-3.safetensors"
    for step in (16, 128):
        place = STEPS.index(step)
        one = sharded[place]
        sharded[place] = Source(
            step,
            one.name,
            {**one.files, first: last.files[first]},
            lambda name, start, stop, one=one: (last if name == first else one).read(name, start, stop),
        )
    found = audit(sharded)
    assert kinds(found) == {16: "mixed", 128: "mixed"}
    assert found.missing_steps[16] == (
        "the weights in model-0-of-3.safetensors are the same at steps 16, 128 and 4000; they belong to step 4000"
    )


def test_what_is_looked_at_is_what_is_loaded() -> None:
    """Other weights beside a model's hide nothing."""
    steps = (0, 8, 16)
    files = [
        {"pytorch_model.bin": b"the same in all", "ema.safetensors": stored({"w": np.full((2, 2), n)})} for n in steps
    ]
    found = audit([source(step, some) for step, some in zip(steps, files, strict=True)])
    assert kinds(found) == dict.fromkeys(steps, "copy")
    assert [*source(0, {"model.safetensors": b"", **files[0]}).weights] == ["model.safetensors"]
    adapter = {"adapter_config.json": b"{}", "adapter_model.bin": b"", "adapter_model.safetensors": b""}
    assert [*source(0, {**adapter, "training_args.bin": b""}).weights] == ["adapter_model.safetensors"]


def test_files_that_do_not_learn_are_no_copies(made: list[Weights]) -> None:
    frozen = [{**one, "embed.weight": made[0]["embed.weight"]} for one in made]
    sources = [
        source(
            step,
            {
                "model-1-of-2.safetensors": stored({"embed.weight": one["embed.weight"]}),
                "model-2-of-2.safetensors": stored({name: one[name] for name in SHAPES if name != "embed.weight"}),
            },
        )
        for step, one in zip(STEPS, frozen, strict=True)
    ]
    assert audit(sources).findings == ()
    assert audit(series(STEPS, frozen)).findings == ()


def test_a_copy_is_no_mixture_where_some_files_do_not_learn(made: list[Weights]) -> None:
    frozen = {name: made[0][name] for name in list(SHAPES)[:5]}
    one = with_steps([{**one, **frozen} for one in made], at_8={**at(made, 2000), **frozen})
    sources = [
        source(
            step,
            {
                "model-1-of-3.safetensors": stored(frozen),
                "model-2-of-3.safetensors": stored({name: weights[name] for name in list(SHAPES)[5:9]}),
                "model-3-of-3.safetensors": stored({name: weights[name] for name in list(SHAPES)[9:]}),
            },
        )
        for step, weights in zip(STEPS, one, strict=True)
    ]
    found = audit(sources)
    assert kinds(found) == {8: "copy"}
    assert found.missing_steps[8] == "its weights are the same at steps 8 and 2000; they belong to step 2000"


def test_a_note_says_if_nothing_that_was_read_learns(made: list[Weights]) -> None:
    """As where a few layers are trained: other files, and the same matrices."""
    files = [stored(made[0], step=str(step)) for step in STEPS]
    found = audit([source(step, {"model.safetensors": one}) for step, one in zip(STEPS, files, strict=True)])
    assert found.findings == ()
    assert "the order of the checkpoints could not be checked" in found.unseen[0]
    assert audit(series(STEPS, made)).unseen == ()


def test_a_checkpoint_of_another_format_hides_nothing(made: list[Weights]) -> None:
    sources = series(STEPS, with_steps(made, at_8=at(made, 1000)))
    sources[1] = source(1, {"pytorch_model.bin": stored(made[1])})
    found = audit(sources)
    assert set(found.missing_steps) == {8}
    assert found.unseen[0].startswith("step 1: only whole files were compared")


def test_a_step_0_that_the_others_do_not_come_from(made: list[Weights]) -> None:
    other = trajectory(np.random.default_rng(99), STEPS)
    found = audit(series(STEPS, with_steps(made, at_0=other[0])))
    assert kinds(found) == {0: "descent"}
    assert (
        "its weights are from another run than the others: those of steps 0 and 1 are unrelated"
        in found.missing_steps[0]
    )


def test_what_may_be_two_runs_or_long_training_is_reported_and_not_missing(made: list[Weights]) -> None:
    other = trajectory(np.random.default_rng(99), STEPS)
    found = audit(series([0, 4000], [made[0], other[-1]]))
    assert found.missing_steps == {}
    assert kinds(found) == {4000: "descent"}
    assert "either two runs, or training left nothing" in reason(found, 4000)


def test_weights_that_hardly_move_and_come_back_at_the_edge_of_rounding_are_no_fault() -> None:
    random = np.random.default_rng(0)
    start = {name: random.normal(0, 0.02, shape) for name, shape in SHAPES.items()}
    for dtype, size in (("F32", 1e-9), ("BF16", 1e-6), ("F16", 1e-7)):
        noise = [{name: one + random.normal(0, size, one.shape) for name, one in start.items()} for _ in STEPS]
        assert audit(series(STEPS, noise, dtype)).findings == (), dtype


def test_damaged_files_and_values_are_gaps(made: list[Weights]) -> None:
    sources = series(STEPS, made)
    whole = stored({**made[3], **CONSTANT})
    nan = {name: values.copy() for name, values in made[5].items()}
    nan["h.2.up.weight"][0, 3] = np.nan
    zeros = {**made[6], "h.1.attn.weight": np.zeros((32, 96))}
    sources[1] = source(1, {"config.json": b"{}"})
    sources[2] = source(2, {"model.safetensors": whole[:-100]})
    sources[3] = source(4, {"model.safetensors": b""})
    sources[4] = source(8, {"model.safetensors": b"version https://git-lfs.github.com/spec/v1"})
    sources[5] = source(16, {"model.safetensors": stored(nan)})
    sources[6] = source(32, {"model.safetensors": stored(zeros)})
    sources[7] = source(64, {"model.safetensors": stored({**made[7], "embed.weight": np.ones((65, 32))})})
    found = audit(sources)
    assert found.missing_steps == {
        1: "step1 has no weights",
        2: f"model.safetensors: has {len(whole) - 100:,} bytes, but its header says {len(whole):,}",
        4: "model.safetensors: is not a complete safetensors file",
        8: "model.safetensors: is not a complete safetensors file",
        16: "h.2.up.weight has values that are NaN or infinite",
        32: "h.1.attn.weight is all zeros, unlike at an earlier step",
        64: "embed.weight is (65, 32), but (64, 32) in most of the others",
    }


def test_matrices_that_begin_with_zeros_are_no_fault(made: list[Weights]) -> None:
    adapters = [
        {**one, "h.1.attn.weight": one["h.1.attn.weight"] * bool(step)} for step, one in zip(STEPS, made, strict=True)
    ]
    assert audit(series(STEPS, adapters)).findings == ()


def test_another_type_is_reported_and_not_missing(made: list[Weights]) -> None:
    sources = series(STEPS, made)
    sources[4] = source(8, {"model.safetensors": stored({**made[4], **CONSTANT}, "F16")})
    assert audit(sources).findings == (
        Finding(8, "layout", "its weights are stored as F16, those of most others as F32", missing=False),
    )


def test_files_that_say_something_else_than_the_others(made: list[Weights]) -> None:
    texts: list[dict[str, Any]] = [
        {
            "config.json": {
                "n_layer": 3,
                "n_head": 4,
                "transformers_version": str(step),
                **({"new": 1} if step > 99 else {}),
            },
            "tokenizer.json": {"version": str(step), "model": {"vocab": {"a": 0}}},
            "trainer_state.json": {"global_step": step},
        }
        for step in STEPS
    ]
    texts[2]["config.json"]["n_layer"] = 2
    texts[3]["config.json"]["n_head"] = 2
    texts[3]["tokenizer.json"]["model"]["vocab"]["b"] = 1
    texts[4]["trainer_state.json"]["global_step"] = 9
    sources = [
        source(
            step, {"model.safetensors": stored(one), **{name: json.dumps(text).encode() for name, text in some.items()}}
        )
        for step, one, some in zip(STEPS, made, texts, strict=True)
    ]
    assert audit(sources).findings == (
        Finding(2, "config", "its config.json has n_layer=2, that of most others 3", missing=False),
        Finding(4, "config", "its config.json has n_head=2, that of most others 4", missing=True),
        Finding(4, "tokenizer", "its tokenizer.json is not that of step 0", missing=True),
        Finding(8, "label", "its trainer_state.json counts 9 steps, but its name says 8", missing=True),
    )


def test_a_tokenizer_that_the_first_lacks_is_reported_and_not_missing(made: list[Weights]) -> None:
    files = [
        {"model.safetensors": stored(one), **({"tokenizer.json": b'{"model": {}}'} if step else {})}
        for step, one in zip(STEPS, made, strict=True)
    ]
    found = audit([source(step, some) for step, some in zip(STEPS, files, strict=True)]).findings
    reason = "its tokenizer.json cannot be compared with that of step 0, which has none"
    assert found == tuple(Finding(step, "tokenizer", reason, missing=False) for step in STEPS[1:])


def test_a_file_that_is_the_same_in_all_is_read_once(made: list[Weights]) -> None:
    read: list[str] = []
    sources = []
    for step, one in zip(STEPS, made, strict=True):
        files = source(step, {"model.safetensors": stored(one), "tokenizer.json": b"{}", "config.json": b"{}"})

        def ranged(name: str, start: int, stop: int, files: Source = files) -> bytes:
            read.append(name)
            return files.read(name, start, stop)

        sources.append(Source(step, "", files.files, ranged))
    assert audit(sources).findings == ()
    assert read.count("tokenizer.json") == 1


def test_names_that_count_epochs_are_no_wrong_steps(made: list[Weights]) -> None:
    counts = {step: 50 * step for step in STEPS}
    for wrong in ({}, {64: 2}):
        sources = [
            source(
                step,
                {
                    "model.safetensors": stored(one),
                    "trainer_state.json": json.dumps({"global_step": {**counts, **wrong}[step]}).encode(),
                },
            )
            for step, one in zip(STEPS, made, strict=True)
        ]
        assert bool(audit(sources).missing_steps) == bool(wrong)


def test_a_few_ranges_are_read_of_each_file_and_not_all_of_it() -> None:
    random = np.random.default_rng(0)
    shape = (500, 400)
    names = [f"h.{layer}.{kind}.weight" for layer in range(12) for kind in ("attn", "mlp")]
    read: list[tuple[int, int]] = []
    sources = []
    for step in range(3):
        content = stored({name: random.normal(size=shape) + 1 for name in names})

        def ranged(name: str, start: int, stop: int, content: bytes = content) -> bytes:
            read.append((start, stop))
            return content[start:stop]

        one = source(step, {"model.safetensors": content})
        sources.append(Source(step, one.name, one.files, ranged))
    audit(sources)
    total = sum(stop - start for start, stop in read)
    assert total == 3 * (sample.FIRST + sample.MATRICES * sample.ELEMENTS * 4)
    assert total < 0.1 * sum(file.size for one in sources for file in one.files.values())


def test_the_header_of_a_file_may_be_long() -> None:
    content = stored({f"h.{layer}.weight": np.full((2, 2), layer) for layer in range(2000)})
    found = sample.header("model.safetensors", len(content), lambda name, start, stop: content[start:stop])
    assert len(found) == 2000
    tensor = found["h.1999.weight"]
    values = sample.values(tensor, lambda name, start, stop: content[start:stop])
    assert (values == 1999).all()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_values_are_those_that_safetensors_reads(tmp_path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import load_file as load
    from safetensors.torch import save_file as save

    kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).to(kind)
    save({"a.bias": torch.ones(3, 3), "b.weight": weight}, tmp_path / "model.safetensors")
    one = folder(0, tmp_path)
    tensors = sample.header("model.safetensors", one.files["model.safetensors"].size, one.read)
    assert sample.choose(tensors) == ["b.weight"]
    read = sample.values(tensors["b.weight"], one.read)
    assert (read == load(tmp_path / "model.safetensors")["b.weight"].float().numpy().ravel()).all()


@pytest.fixture(scope="module", params=[1e-2, 1e-4, 1e-12])
def learned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Checkpoints of a short training of `mini` on noise."""
    import torch
    from safetensors.torch import save_model
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("learned")
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=request.param)
    random = torch.Generator().manual_seed(0)
    sources = []
    for step in range(25):
        if step & (step - 1) == 0 or step % 4 == 0:
            (path / str(step)).mkdir()
            save_model(model, str(path / str(step) / "model.safetensors"))
            sources.append(folder(step, path / str(step)))
        tokens = torch.randint(model.config.vocab_size, (4, 8), generator=random)
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return sources


def test_a_real_training_has_no_findings_and_planted_ones_are_found(learned: list[Source]) -> None:
    assert audit(learned).findings == ()
    place, last = 4, learned[-1]
    copied = Source(learned[place].step, "", last.files, last.read)
    found = audit([*learned[:place], copied, *learned[place + 1 :]])
    assert kinds(found) == {copied.step: "copy"}
