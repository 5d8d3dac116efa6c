"""The memory model: every piece where it lives, once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from paceline.planner import MemoryModel, kv_tokens
from paceline.planner.memory import HEADROOM, PROCESS_BYTES, STEP_ROWS, STEP_SAMPLES
from paceline.planner.sizes import MIB
from paceline.planner.table import allocatable, make_table
from paceline.types.links import NO_LINKS
from paceline.types.model import PAGE_TOKENS
from tests.planner.clusters import KV_PAGES, model, node, wish
from tests.planner.test_plan import DIALOGPT, SMOL


def test_a_tied_table_is_one_copy_on_one_rank_and_two_on_two():
    memory = MemoryModel(SMOL, "float32")
    whole = memory.weight_bytes(memory.shard(0, 30))
    split = memory.weight_bytes(memory.shard(0, 15)) + memory.weight_bytes(memory.shard(15, 30))
    assert whole == 4 * (30 * 3_540_096 + 28_312_128)
    assert split - whole == 4 * SMOL.embed_params


def test_learned_positions_are_beside_a_tied_table():
    memory = MemoryModel(DIALOGPT, "float32")
    whole = memory.weight_bytes(memory.shard(0, 24))
    assert whole == 4 * (24 * 12_596_224 + (50257 + 1024) * 1024 + 2048)


def test_an_untied_model_has_both_tables():
    facts = replace(SMOL, tied=False)
    memory = MemoryModel(facts, "float32")
    params = 30 * 3_540_096 + facts.embed_params + facts.head_params
    assert memory.weight_bytes(memory.shard(0, 30)) == 4 * params


def test_tables_of_int4_are_in_int8():
    int4, int8 = (MemoryModel(SMOL, dtype) for dtype in ("int4", "int8"))
    assert int4.head_weights == int8.head_weights
    assert int4.layer_weights[-1] == pytest.approx(0.58 / 1.02 * int8.layer_weights[-1], rel=1e-3)


def test_layers_of_uneven_size_count_at_their_own():
    memory = MemoryModel(model((1000, 10, 10, 4000)), "float32")
    assert memory.weight_bytes(memory.shard(1, 3)) == 4 * 20
    assert memory.weight_bytes(memory.shard(1, 2)) == 4 * 10


def test_kv_is_counted_per_layer_of_the_shard():
    memory = MemoryModel(SMOL, "float32")
    assert memory.kv_bytes(memory.shard(0, 10), 3) == 10 * 3 * PAGE_TOKENS * 2 * 192 * 4


def test_the_rank_with_the_logits_needs_room_for_them():
    memory = MemoryModel(SMOL, "float32")
    middle, last = (memory.activation_bytes(memory.shard(*at)) for at in ((5, 10), (25, 30)))
    assert middle >= 4 * STEP_ROWS * SMOL.width
    assert last - middle >= 4 * STEP_SAMPLES * SMOL.vocab_size


def test_a_rank_is_its_pieces_headroom_and_the_process():
    memory = MemoryModel(SMOL, "float32")
    shard = memory.shard(3, 9)
    pieces = memory.weight_bytes(shard) + memory.kv_bytes(shard, 7) + memory.activation_bytes(shard)
    assert memory.rank_bytes(shard, 7) == pieces + pieces // HEADROOM + PROCESS_BYTES


@pytest.mark.parametrize(
    ("context", "asked", "tokens"),
    [(8192, None, 16 * 512), (1024, None, 16 * 512), (100, None, 1600), (131072, 9000, 9000)],
)
def test_kv_for_the_sequences_and_the_context(context, asked, tokens):
    facts = replace(SMOL, max_context=context)
    assert kv_tokens(facts, wish(kv_tokens=asked)) == tokens


@given(free=st.integers(-(2**40), 2**40))
def test_allocatable_is_the_most_that_fits_with_headroom_and_process(free):
    def with_all(count: int) -> int:
        return count + count // HEADROOM + PROCESS_BYTES

    most = allocatable(free)
    assert most < 0 or with_all(most) <= free
    assert with_all(most + 1) > free or most < -1


@given(
    params=st.lists(st.integers(0, 10**8), min_size=1, max_size=12),
    tied=st.booleans(),
    data=st.data(),
)
def test_the_table_counts_as_the_model_does(params, tied, data):
    facts = model(tuple(params), tied=tied)
    memory = MemoryModel(facts, "float32")
    start = data.draw(st.integers(0, len(params) - 1))
    stop = data.draw(st.integers(start + 1, len(params)))
    free = data.draw(st.integers(0, 4 * 2**30))
    table = make_table(memory, [node("a", free)], NO_LINKS, KV_PAGES)
    fits = table.bytes(start, stop) <= table.room[0]
    assert fits == (memory.rank_bytes(memory.shard(start, stop), KV_PAGES) <= free)


def test_a_process_alone_takes_a_known_part():
    memory = MemoryModel(model((1,)), "float32")
    assert memory.rank_bytes(memory.shard(0, 1), 1) > PROCESS_BYTES >= 150 * MIB
