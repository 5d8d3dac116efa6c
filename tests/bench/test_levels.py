from __future__ import annotations

from paceline.bench import Round, Timeline, level_of, prompts
from paceline.bench.levels import quantile


def timeline(sent: float, *pieces: float, tokens: int = 0, error: str = "") -> Timeline:
    return Timeline(
        sent_at=sent,
        ended_at=pieces[-1] if pieces else sent,
        pieces=pieces,
        prompt_tokens=7,
        tokens=tokens or len(pieces),
        error=error,
    )


def test_figures_of_a_level():
    first = Round((timeline(0.0, 1.0, 2.0, 4.0), timeline(0.5, 1.0, 3.5, tokens=5)))
    second = Round((timeline(10.0, 11.0, 12.0), timeline(10.0, error="refused")))
    level = level_of(2, [first, second])
    assert (level.requests, level.errors, level.first_error) == (4, 1, "refused")
    assert (level.tokens, level.prompt_tokens) == (10, 21)
    assert level.tokens_per_s == 1.0  # the lower of 8 tokens in 4 s and 2 in 2 s
    assert (level.first_p50_s, level.first_p99_s) == (1.0, 1.0)
    assert (level.gap_p50_s, level.gap_p99_s) == (1.0, 2.5)


def test_a_level_without_answers_has_zeros_and_a_reason():
    level = level_of(1, [Round((timeline(0.0, error="refused"),))])
    assert (level.tokens_per_s, level.gap_p99_s, level.first_error) == (0.0, 0.0, "refused")


def test_quantiles_are_values_that_were_seen():
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [quantile(values, part) for part in (0.0, 0.2, 0.5, 0.99, 1.0)] == [1, 1, 3, 5, 5]
    assert quantile([], 0.5) == 0.0


def test_prompts_are_as_long_as_asked_and_differ_at_once():
    made = prompts(64, 40)
    assert all(len(prompt.split()) >= 40 for prompt in made)
    assert len({prompt[:9] for prompt in made}) == 64


def test_no_prompt_is_sent_twice() -> None:
    first, second = prompts(8, 40), prompts(8, 40, first=8)
    assert not set(first) & set(second)
