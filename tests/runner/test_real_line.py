"""Runner processes on the real model: answers, impossible tasks, lost neighbours."""

import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from paceline.checkpoint import ChatTemplate, Tokenizer
from paceline.checkpoint.facts import model_facts
from paceline.planner import MemoryModel, resolve_dtype
from paceline.types.states import RunnerState, TaskState
from paceline.types.stream import FinishReason, SamplingParams, StreamRecord
from tests.support.models import smollm2_dir
from tests.support.runners import Runners, place

pytestmark = pytest.mark.real

QUESTION = "What is the capital of France?"


def home_with_model(path: Path) -> Path:
    """A home of its own over the models that all tests share."""
    path.mkdir(exist_ok=True)
    (path / "models").symlink_to(smollm2_dir().parent)
    return path


@pytest.fixture(scope="module", params=[1, 2, 3])
def line(request, tmp_path_factory) -> Iterator[Runners]:
    directory = smollm2_dir()
    home = home_with_model(tmp_path_factory.mktemp("home"))
    facts = model_facts(directory, directory.name)
    with Runners(home, directory.name, place(facts, request.param)) as runners:
        runners.load_all()
        runners.join_line()
        yield runners


def record(text: str = QUESTION, stream_id: str = "s-1", **params) -> StreamRecord:
    directory = smollm2_dir()
    rendered = ChatTemplate.load(directory).render([{"role": "user", "content": text}])
    ids = Tokenizer.load(directory).encode(rendered, add_special_tokens=False)
    given = {"max_tokens": 24, "seed": 7, "temperature": 0.0} | params
    return StreamRecord(
        stream_id=stream_id, attempt=0, prompt_ids=tuple(ids), params=SamplingParams(**given)
    )


def text_of(tokens) -> str:
    return Tokenizer.load(smollm2_dir()).decode([token.id for token in tokens])


def test_the_capital_of_france(line):
    tokens, end = line.generate([record()])["s-1"]
    assert "Paris" in text_of(tokens)
    assert end.reason is FinishReason.STOP
    assert [token.position for token in tokens] == list(range(end.emitted))


def test_alone_and_in_a_batch_give_the_same_tokens(line):
    sampled = {"temperature": 0.8, "top_p": 0.9}
    alone = line.generate([record(stream_id="alone", **sampled)])["alone"][0]
    others = [record(f"Tell me about {i}", f"o-{i}", temperature=1.0) for i in range(5)]
    batch = line.generate([*others, record(stream_id="again", **sampled)])["again"][0]
    assert [t.id for t in batch] == [t.id for t in alone]


def test_a_resumed_stream_goes_on_with_the_same_draw(line):
    whole = record(stream_id="whole", temperature=0.9, max_tokens=20, ignore_eos=True)
    ids = [token.id for token in line.generate([whole])["whole"][0]]
    resumed = StreamRecord(
        stream_id="resumed", attempt=3, prompt_ids=whole.prompt_ids, params=whole.params,
        emitted_ids=tuple(ids[:9]),
    )  # fmt: skip
    tokens, end = line.generate([resumed])["resumed"]
    assert [token.id for token in tokens] == ids[9:]
    assert tokens[0].position == 9
    assert end.emitted == 20


def test_memory_stays_within_shard_kv_and_400_mb(line):
    line.look(1.0)
    directory = smollm2_dir()
    memory = MemoryModel(model_facts(directory, directory.name), resolve_dtype("auto"))
    for rank, seat in enumerate(line.placement.seats):
        shard = memory.weight_bytes(seat.shard)
        kv = memory.kv_bytes(seat.shard, seat.kv_pages)
        measured = line.facts[f"r-{rank}"].measured_bytes
        assert shard < measured < shard + kv + 400 * 10**6


def test_an_impossible_task_fails_and_the_line_goes_on(line):
    task = msgspec.structs.replace(line.load(0), task_id="load-while-ready")
    again = line.outcome(0, task)
    line.failed(again, "load found the runner ready")
    assert "Paris" in text_of(line.generate([record(stream_id="after")])["after"][0])


def test_a_lost_neighbour_leaves_the_others_loaded_and_a_new_epoch_joins_them(tmp_path):
    directory = smollm2_dir()
    facts = model_facts(directory, directory.name)
    with Runners(home_with_model(tmp_path / "h"), directory.name, place(facts, 2)) as runners:
        runners.load_all()
        runners.join_line()
        pids = [runners.facts[f"r-{rank}"].pid for rank in runners.ranks]
        runners.processes[1].send_signal(signal.SIGSTOP)
        runners.until(
            lambda: runners.facts["r-0"].state is RunnerState.LOADED, "rank 0 to leave the line"
        )
        assert "silent" in runners.facts["r-0"].reason
        runners.processes[1].send_signal(signal.SIGCONT)
        runners.all_in(RunnerState.LOADED)
        runners.join_line()
        assert [runners.facts[f"r-{rank}"].pid for rank in runners.ranks] == pids
        assert "Paris" in text_of(runners.generate([record()])["s-1"][0])


def test_tasks_that_cannot_be_done_end_failed_with_the_reason(tmp_path):
    directory = smollm2_dir()
    facts = model_facts(directory, directory.name)
    with Runners(home_with_model(tmp_path / "h"), directory.name, place(facts, 1)) as runners:
        runners.failed(runners.outcome(0, runners.connect(0)), "connect found the runner idle")
        runners.model = "no-such-model"
        runners.failed(runners.outcome(0, runners.load(0)), "no-such-model")
        assert runners.facts["r-0"].state is RunnerState.FAILED
        runners.model, runners.n = directory.name, 2
        assert runners.outcome(0, runners.load(0)).state is TaskState.COMPLETE
