from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.engine.kernels import Kernels
from paceline.engine.sampler import Sampler
from paceline.engine.sampling.draw import Ask, Draw, draw_rows, head, invert_cdf
from paceline.engine.sampling.processors import Vocabulary, make_processors
from paceline.engine.sampling.uniform import uniform
from paceline.types.errors import EngineError
from paceline.types.step import Admission, SampledToken
from paceline.types.stream import SamplingParams
from tests.engine.kernel_builds import ISAS

VOCAB = 1003
EOS = frozenset({7, 9})


def params(**changes: Any) -> SamplingParams:
    return SamplingParams(**({"max_tokens": 100, "seed": 1} | changes))


def admission(
    slot: int = 0,
    prompt_ids: tuple[int, ...] = (1, 2, 3),
    emitted_ids: tuple[int, ...] = (),
    **changes: Any,
) -> Admission:
    return Admission(
        slot=slot, params=params(**changes), prompt_ids=prompt_ids, emitted_ids=emitted_ids
    )


def sampler_of(*admissions: Admission, vocab: int = VOCAB) -> Sampler:
    sampler = Sampler(vocab, EOS)
    for each in admissions:
        sampler.admit(each)
    return sampler


def sample_one(logits: list[float] | torch.Tensor, **changes: Any) -> SampledToken:
    row = torch.as_tensor(logits, dtype=torch.float32)
    sampler = sampler_of(admission(**changes), vocab=len(row))
    (token,) = sampler.sample([0], row[None])
    return token


@pytest.mark.parametrize("right", range(4))
@pytest.mark.parametrize(
    "wish",
    [{"temperature": 0.0}, {}, {"repetition_penalty": 1.3, "logprobs": 2}, {"min_tokens": 3}],
)
def test_guesses_change_no_token(right: int, wish: dict[str, Any]) -> None:
    """Rows behind right guesses are drawn from as steps of their own would be; others are not."""
    plain, history = sampler_of(admission(**wish)), [1, 2, 3]
    expected, rows = [], []
    for _ in range(4):
        rows.append(model(history))
        expected += plain.sample([0], rows[-1][None])
        history.append(expected[-1].id)
    guesses = [token.id for token in expected[:right]]
    if right < 3:
        guesses.append((expected[right].id + 1) % VOCAB)
    sampler = sampler_of(admission(**wish), admission(slot=1))
    logits = torch.stack([model([9]), *rows[: len(guesses) + 1]])
    _, *drawn = sampler.sample([1, 0], logits, {0: tuple(guesses)})
    assert drawn == expected[: right + 1]


def model(history: list[int]) -> torch.Tensor:
    """Logits that depend on every token before, as a model's do."""
    draw_logits = torch.Generator().manual_seed(hash(tuple(history)) % 2**62)
    return torch.randn(VOCAB, generator=draw_logits) * 4


def generate(sampler: Sampler, slot: int, history: list[int], count: int) -> list[SampledToken]:
    history, tokens = list(history), []
    for _ in range(count):
        tokens += sampler.sample([slot], model(history)[None])
        history.append(tokens[-1].id)
    return tokens


STYLES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.0, "repetition_penalty": 1.3, "logprobs": 2},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.5, "top_k": 40, "logprobs": 3},
    {"temperature": 2.0, "min_p": 0.02},
    {"top_k": 200, "top_p": 0.8, "min_p": 0.001, "seed": 99},
    {"presence_penalty": 1.0, "frequency_penalty": 0.5, "min_tokens": 10, "choice": 3},
    {"logit_bias": {5: 6.0, 6: -100.0}, "repetition_penalty": 0.9, "logprobs": 0},
]


# --- the generator -------------------------------------------------------------------------------


def test_the_generator_is_the_same_for_ever() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (2**63 - 1, 127, 9)]
    assert [uniform(*key) for key in keys] == [
        0.156742553465558,
        0.33776134126730917,
        0.4633667468151501,
        0.4328969704265123,
    ]


def test_the_generator_is_uniform_and_its_streams_are_apart() -> None:
    for key in (lambda i: (i, 0, 0), lambda i: (0, i, 0), lambda i: (0, 0, i)):
        drawn = sorted(uniform(*key(i)) for i in range(4000))
        assert drawn[0] >= 0.0
        assert drawn[-1] < 1.0
        # Kolmogorov-Smirnov at one in a million.
        distance = max(abs(u - (i + 0.5) / 4000) for i, u in enumerate(drawn))
        assert distance < 2.7 / math.sqrt(4000)
        lagged = np.corrcoef([uniform(*key(i)) for i in range(4001)][:-1], range(4000))[0, 1]
        assert abs(lagged) < 0.08


# --- the same token whatever happens -------------------------------------------------------------


def test_the_same_tokens_alone_and_in_any_batch_in_any_order() -> None:
    count, steps = 4 * len(STYLES), 12
    admissions = [
        admission(slot, prompt_ids=(slot + 1, 4), **(STYLES[slot % len(STYLES)] | {"choice": slot}))
        for slot in range(count)
    ]
    alone = {
        each.slot: generate(sampler_of(each), each.slot, list(each.prompt_ids), steps)
        for each in admissions
    }
    together = sampler_of(*admissions)
    found: dict[int, list[SampledToken]] = {slot: [] for slot in range(count)}
    shuffle = random.Random(4)
    while any(len(tokens) < steps for tokens in found.values()):
        ready = [slot for slot, tokens in found.items() if len(tokens) < steps]
        batch = shuffle.sample(ready, shuffle.randint(1, len(ready)))
        histories = [
            [*admissions[slot].prompt_ids, *(token.id for token in found[slot])] for slot in batch
        ]
        logits = torch.stack([model(history) for history in histories])
        for token in together.sample(batch, logits):
            found[token.slot].append(token)
    assert found == alone


@pytest.mark.parametrize("style", STYLES)
def test_a_resumed_stream_continues_the_same_draw(style: dict[str, Any]) -> None:
    prompt, count = (3, 1, 4), 16
    whole = generate(sampler_of(admission(prompt_ids=prompt, **style)), 0, list(prompt), count)
    ids = [token.id for token in whole]
    assert [token.position for token in whole] == list(range(count))
    for cut in range(1, count):
        resumed = sampler_of(admission(prompt_ids=prompt, emitted_ids=tuple(ids[:cut]), **style))
        assert generate(resumed, 0, [*prompt, *ids[:cut]], count - cut) == whole[cut:]


@pytest.mark.parametrize("style", STYLES)
def test_the_number_of_threads_changes_nothing(style: dict[str, Any]) -> None:
    before = torch.get_num_threads()
    logits = torch.randn(3, 50_257, generator=torch.Generator().manual_seed(1)) * 3
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            sampler = sampler_of(*(admission(slot, **style) for slot in range(3)), vocab=50_257)
            found.append(sampler.sample([0, 1, 2], logits))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_choices_of_one_seed_differ_and_the_same_choice_repeats() -> None:
    drawn = [sample_one(torch.zeros(VOCAB), seed=5, choice=choice).id for choice in range(20)]
    assert len(set(drawn)) > 15
    assert drawn == [
        sample_one(torch.zeros(VOCAB), seed=5, choice=choice).id for choice in range(20)
    ]


# --- what is drawn -------------------------------------------------------------------------------


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    logits = [0.0, 3.0, 1.0, 3.0, 3.0]
    assert sample_one(logits, temperature=0.0).id == 1
    assert sample_one(logits, temperature=0.0, logit_bias={1: -1.0}).id == 3
    assert sample_one(logits, top_k=1).id == 1
    assert sample_one(logits, top_p=0.0).id == 1


@pytest.mark.parametrize("temperature", [1e-300, 1e-6, 1e-5, 1e-3])
def test_a_tiny_temperature_overflows_nothing(temperature: float) -> None:
    assert sample_one([0.0, 3.0, -200.0, 2.0], temperature=temperature).id == 1


@pytest.fixture(scope="module", params=["numpy", *ISAS])
def draw_by(request: pytest.FixtureRequest) -> Draw:
    """By the book, and by each instruction set that is here."""
    if request.param == "numpy":
        return draw_rows
    kernels = request.getfixturevalue("all_kernels").get(request.param)
    if kernels is None:
        pytest.skip(f"this CPU lacks {request.param}")
    return cast(Draw, kernels.draw)


def oracle(logits: np.ndarray, p: SamplingParams) -> dict[int, float]:
    """The distribution that is drawn from, by the book: one sort, one list, float64."""
    weights = np.exp((logits - logits.max()).astype(np.float64) / p.temperature)
    ranked = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    ranked = [i for i in ranked if weights[i] >= p.min_p * weights.max()]
    ranked = ranked[: p.top_k or None]
    total, mass, kept = weights[ranked].sum(), 0.0, []
    for i in ranked:
        if kept and p.top_p < 1.0 and mass >= p.top_p * total:
            break
        kept.append(i)
        mass += weights[i]
    return {i: weights[i] / mass for i in kept}


DISTRIBUTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 1.7},
    {"top_k": 3},
    {"top_k": 1000},
    {"top_p": 0.6},
    {"top_p": 0.999},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_k": 5, "top_p": 0.7},
    {"top_k": 6, "min_p": 0.2, "temperature": 1.3},
    {"top_p": 0.8, "min_p": 0.05, "temperature": 2.0},
]


@pytest.mark.parametrize("changes", DISTRIBUTIONS)
def test_tokens_come_as_often_as_they_should(draw_by: Draw, changes: dict[str, Any]) -> None:
    # 700 tokens: more than one block of the search.
    logits = torch.randn(700, generator=torch.Generator().manual_seed(8)).numpy() * 3
    wanted = params(**changes)
    count = 4000
    # A low-discrepancy u makes the test exact: each token is met within a draw or two of its due.
    us = (np.arange(count) + 0.5) / count
    found = Counter(draw_by([Ask(logits, wanted, float(u)) for u in us]))
    expected = oracle(logits, wanted)
    assert found.keys() <= expected.keys()
    for token_id, probability in expected.items():
        assert abs(found[token_id] - probability * count) <= 1.5


@settings(max_examples=150, deadline=None)
@given(
    logits=st.lists(st.sampled_from([-30.0, -3.0, -1.0, 0.0, 0.5, 2.0, 2.5]), min_size=1),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    top_k=st.integers(0, 5),
    min_p=st.sampled_from([0.0, 0.3, 1.0]),
    u=st.floats(0, 1, exclude_max=True),
)
def test_only_survivors_are_drawn_with_any_ties(
    draw_by: Draw, logits: list[float], u: float, **changes: Any
) -> None:
    row = np.array(logits, dtype=np.float32)
    expected = oracle(row, params(**changes))
    assert draw_by([Ask(row, params(**changes), u)])[0] in expected


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(1, 900),
    reach=st.sampled_from([0.02, 1.0, 9.0, 30.0, 900.0]),
    grain=st.sampled_from([0.004, 0.03, 2.0]),
    share=st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0, 1.1]),
)
def test_a_head_is_the_start_of_the_sorted_list(
    seed: int, size: int, reach: float, grain: float, share: float
) -> None:
    random_gaps = np.random.default_rng(seed)
    gaps = np.round(random_gaps.uniform(0, reach, size) / grain).astype(np.float32) * grain
    gaps = (gaps - gaps.min()).astype(np.float32)
    mass = random_gaps.integers(1, 9, size).astype(np.float32)  # Whole, so that sums are exact.
    enough = math.floor(share * float(mass.sum()))
    ranked = sorted(range(size), key=lambda i: (gaps[i], i))
    reached = np.cumsum(mass[ranked])
    length = int(np.argmax(reached >= enough)) + 1 if reached[-1] >= enough else size
    found = head(gaps, mass, enough)
    assert sorted(found) == sorted(ranked[:length])
    place = {int(i): at for at, i in enumerate(found)}
    ties = pairwise(ranked[:length])
    assert all(place[a] < place[b] for a, b in ties if gaps[a] == gaps[b])


@given(
    st.lists(st.sampled_from([0.0, 1e-30, 0.5, 1.0]), min_size=1, max_size=600).filter(any),
    st.sampled_from([0.0, 0.5, 1 - 2**-53]),
)
def test_what_has_no_weight_is_never_taken(weights: list[float], u: float) -> None:
    assert weights[invert_cdf(np.array(weights, dtype=np.float32), u)] > 0


def test_rounding_never_leads_past_the_end() -> None:
    random_weights = np.random.default_rng(3)
    for _ in range(2000):
        weights = np.exp(-random_weights.uniform(0, 40, 300)).astype(np.float32)
        weights[290:] = 0.0
        assert weights[invert_cdf(weights, 1 - 2**-53)] > 0


@pytest.mark.parametrize("vocab", [1, 255, 256, 257, 50_257])
def test_instruction_sets_draw_what_the_book_says(draw_by: Draw, vocab: int) -> None:
    dice = np.random.default_rng(vocab)
    asks = []
    for style in (*DISTRIBUTIONS, {"temperature": 0.0}, {"temperature": 1e-5}, {"min_p": 1e-7}):
        row = dice.normal(0, 3, vocab).astype(np.float32)
        row[dice.integers(0, vocab, vocab // 100)] += 12.0
        row[dice.integers(0, vocab, vocab // 9)] = -np.inf
        row[0] = max(row[0], 0.0)
        asks += [Ask(row, params(**style), float(u)) for u in (0.0, *dice.random(3))]
    assert draw_by(asks) == draw_rows(asks)
    # At the very end it is rounding that decides between tokens of hardly any weight.
    last = [msgspec.structs.replace(ask, u=1 - 2**-53) for ask in asks]
    for ask, token_id in zip(last, draw_by(last), strict=True):
        assert np.isfinite(ask.row[token_id])


def test_no_row_is_drawn_from_that_is_not_logits(draw_by: Draw) -> None:
    sound = Ask(np.zeros(VOCAB, dtype=np.float32), params(), 0.5)
    assert draw_by([]) == []
    for damage in (math.inf, math.nan):
        for place in (5, VOCAB - 2):
            row = np.zeros(VOCAB, dtype=np.float32)
            row[place] = damage
            with pytest.raises(EngineError, match="not finite"):
                draw_by([sound, Ask(row, params(), 0.5)])
    with pytest.raises(EngineError, match="not finite"):
        draw_by([Ask(np.full(VOCAB, -np.inf, dtype=np.float32), params(temperature=0.0), 0.5)])


def test_kernels_look_at_rows_before_they_read_them(kernels: Kernels) -> None:
    row = np.zeros(VOCAB, dtype=np.float32)
    for other in (row[:-1], np.zeros(2 * VOCAB, dtype=np.float32)[::2], np.zeros(VOCAB)):
        with pytest.raises(EngineError, match="logits are float32"):
            kernels.draw([Ask(row, params(), 0.5), Ask(cast(Any, other), params(), 0.5)])


# --- processors ----------------------------------------------------------------------------------


LOGITS = [2.0, -2.0, 1.0, -1.0, 0.5, 4.0]


@pytest.mark.parametrize(
    ("changes", "emitted", "expected"),
    [
        ({}, (2, 2), LOGITS),
        ({"logit_bias": {0: 1.5, 5: -100.0}}, (), [3.5, -2.0, 1.0, -1.0, 0.5, -96.0]),
        ({"repetition_penalty": 2.0}, (), [1.0, -4.0, 1.0, -1.0, 0.5, 4.0]),
        ({"repetition_penalty": 2.0}, (2, 3, 3), [1.0, -4.0, 0.5, -2.0, 0.5, 4.0]),
        ({"presence_penalty": 1.0}, (2, 3, 3), [2.0, -2.0, 0.0, -2.0, 0.5, 4.0]),
        ({"frequency_penalty": 0.5}, (2, 3, 3), [2.0, -2.0, 0.5, -2.0, 0.5, 4.0]),
        (
            {"frequency_penalty": 0.5, "presence_penalty": 1.0, "repetition_penalty": 2.0},
            (5, 5),
            [1.0, -4.0, 1.0, -1.0, 0.5, 0.0],
        ),
        ({"logit_bias": {0: 2.0}, "repetition_penalty": 2.0}, (), [2.0, -4.0, *LOGITS[2:]]),
    ],
)
def test_processors_change_the_logits_by_the_book(
    changes: dict[str, Any], emitted: tuple[int, ...], expected: list[float]
) -> None:
    row = np.array(LOGITS, dtype=np.float32)
    known = admission(prompt_ids=(0, 1), emitted_ids=emitted, **changes)
    for processor in make_processors(known, Vocabulary(6, EOS)):
        processor.apply(row, len(emitted))
    assert row.tolist() == expected


def test_penalties_follow_the_drawn_tokens() -> None:
    """Flat logits and a frequency penalty: greedy walks through the vocabulary again and again."""
    sampler = sampler_of(admission(temperature=0.0, frequency_penalty=0.1), vocab=50)
    flat = torch.zeros(1, 50)
    drawn = [sampler.sample([0], flat)[0].id for _ in range(120)]
    assert drawn == [i % 50 for i in range(120)]


def test_no_end_before_min_tokens() -> None:
    logits = torch.zeros(20)
    logits[7], logits[9], logits[3], logits[5] = 9.0, 8.0, 7.0, 6.0
    style = {"temperature": 0.0, "min_tokens": 2, "stop_token_ids": (3,), "ignore_eos": True}
    sampler = sampler_of(admission(**style), vocab=20)
    drawn = [sampler.sample([0], logits[None])[0].id for _ in range(3)]
    assert drawn == [5, 5, 7]
    resumed = sampler_of(admission(emitted_ids=(5,), **style), vocab=20)
    assert [resumed.sample([0], logits[None])[0].id for _ in range(2)] == [5, 7]


def test_a_vocabulary_of_nothing_but_stops_still_gives_a_token() -> None:
    sampler = Sampler(2, frozenset({0, 1}))
    sampler.admit(admission(prompt_ids=(0,), min_tokens=5))
    assert sampler.sample([0], torch.zeros(1, 2))[0].id in (0, 1)


def test_the_logits_of_the_caller_stay_as_they_are() -> None:
    logits = model([1])[None]
    before = logits.clone()
    sampler_of(admission(logit_bias={1: 5.0}, min_tokens=3, top_k=4)).sample([0], logits)
    assert torch.equal(logits, before)


# --- logprobs ------------------------------------------------------------------------------------


def test_logprobs_are_those_of_the_model() -> None:
    row = model([2])
    expected = row.double().log_softmax(0)
    token = sample_one(row, logprobs=5, temperature=0.3, logit_bias={3: 50.0}, top_k=2)
    assert token.id == 3
    assert token.logprob == pytest.approx(float(expected[3]), abs=1e-5)
    best = expected.argsort(descending=True)[:5]
    assert [id_ for id_, _ in token.top] == best.tolist()
    assert [value for _, value in token.top] == pytest.approx(expected[best].tolist(), abs=1e-5)


def test_top_logprobs_give_ties_to_the_lowest_id() -> None:
    token = sample_one([1.0, 2.0, 2.0, 1.0, 2.0, 1.0], logprobs=4, temperature=0.0)
    assert [id_ for id_, _ in token.top] == [1, 2, 4, 0]
    assert token.logprob == token.top[0][1]


@pytest.mark.parametrize(("asked", "known", "top"), [(None, False, 0), (0, True, 0), (20, True, 6)])
def test_logprobs_come_when_asked_for(asked: int | None, known: bool, top: int) -> None:
    token = sample_one(LOGITS, logprobs=asked)
    assert (token.logprob is not None, len(token.top)) == (known, top)


# --- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (admission(slot=0), "admitted twice"),
        (admission(slot=1, top_p=1.5), "slot 1 cannot be sampled: top_p must be"),
        (admission(slot=1, prompt_ids=(VOCAB,)), "prompt_ids"),
        (admission(slot=1, emitted_ids=(-1,)), "emitted_ids"),
    ],
)
def test_a_bad_admission_is_refused(bad: Admission, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        sampler_of(admission(slot=0)).admit(bad)


@pytest.mark.parametrize(
    ("slots", "logits", "words"),
    [
        ([0, 2], torch.zeros(2, VOCAB), r"slots \[2\] were not admitted"),
        ([0, 0], torch.zeros(2, VOCAB), "named twice"),
        ([0], torch.zeros(2, VOCAB), "must be float32"),
        ([0], torch.zeros(1, VOCAB + 1), "must be float32"),
        ([0], torch.zeros(1, VOCAB, dtype=torch.float64), "must be float32"),
        ([0, 1], torch.stack([torch.zeros(VOCAB), torch.full((VOCAB,), math.nan)]), "not finite"),
        ([0], torch.zeros(1, VOCAB).index_fill(1, torch.tensor(3), math.inf), "not finite"),
        ([0], torch.full((1, VOCAB), -math.inf), "not finite"),
    ],
)
def test_bad_logits_are_refused_and_move_nobody(
    slots: list[int], logits: torch.Tensor, words: str
) -> None:
    sampler = sampler_of(admission(slot=0), admission(slot=1))
    with pytest.raises(EngineError, match=words):
        sampler.sample(slots, logits)
    assert [t.position for t in sampler.sample([0, 1], torch.zeros(2, VOCAB))] == [0, 0]


def test_a_freed_slot_is_forgotten_and_freeing_twice_is_nothing() -> None:
    sampler = sampler_of(admission())
    sampler.free(0)
    sampler.free(0)
    with pytest.raises(EngineError, match="not admitted"):
        sampler.sample([0], torch.zeros(1, VOCAB))
    sampler.admit(admission())


def test_no_rows_give_no_tokens() -> None:
    assert sampler_of().sample([], torch.zeros(0, VOCAB)) == []
