"""The table of named layouts: every entry builds, states its source, and refuses nonsense in one line."""

import inspect

import numpy as np
import pytest

from layouts.catalog import stacks
from layouts.catalog.record import Record
from layouts.notation import NamedLayout

ARGUMENTS = {  # small sizes that every rule admits
    "fi_nhd": (2, 16, 3, 64),
    "fi_hnd": (2, 16, 3, 64),
    "fi_tuple": (2, 16, 3, 64),
    "vllm_fa": (2, 16, 3, 64),
    "vllm_fi": (2, 16, 3, 64),
    "vllm_stride_order": ("fa", 2, 16, 3, 64, "HND", 2),
    "vllm_paged_v1": (2, 16, 3, 64),
    "sgl_nhd": (32, 16, 3, 64),
    "sgl_hnd": (32, 16, 3, 64),
    "sgl_vec5d": (32, 16, 3, 64),
    "sgl_token_major": (8, 2, 3, 64),
    "sgl_token_major_mla": (8, 2),
    "trtllm_pool": (2, 3, 3, 16, 64),
    "trtllm_recurrent_pool": (3, 2, 100),
    "trtllm_scales": (2, 3, 3, 16),
    "ragged": ([0, 3, 8], 1, 3, 64),
    "ragged_mask": ([0, 3, 8], [0, 5, 9], 1),
    "mla_bf16": (2, 64),
    "mla_split": (2, 64),
    "flashmla_dense": (2,),
    "fp8_ds_mla": (2,),
    "model1_mla": (2,),
    "indexer_fp8": (2,),
    "indexer_fp4": (2,),
    "indexer_preshuffle": (2,),
    "vllm_nvfp4": (2, 16, 3, 64),
    "nvfp4_data": (2, 16, 3, 64),
    "nvfp4_scales": (2, 16, 3, 64),
    "sf_128x4": (100, 9),
    "sf_8x4": (100, 9),
    "sf_linear": (100, 9),
    "deepgemm_sfa": (100, 500),
    "deepgemm_sfb": (100, 500),
    "deepgemm_packed": (100, 500),
    "deepgemm_utccp": (128, 500),
    "mixed_input_scales": (2, 64, 256),
    "moe_major_k": (2, 32, 128),
    "moe_major_mn": (2, 32, 128),
    "moe_block_major_k": (2, 32, 128),
    "gated_interleave": (2, 32, 128),
    "deepgemm_l1": (2, 32, 128),
    "epilogue_shuffle": (2, 32, 128),
    "shuffled_sf": (2, 128, 9),
    "sm90_mixed_weights": (2, 32, 128),
    "masked_groups": (2, 32, 128),
    "deepep_recv": (2, 4, 8, 512),
    "deepep_scales": (2, 4, 8, 512),
    "smem_atom": (),
    "smem_tile": (64, 64),
}
SHARED = {"ragged", "ragged_mask"}  # these start where their sequence starts


def test_every_name_has_arguments_here_and_every_argument_a_name():
    assert set(ARGUMENTS) == set(stacks.NAMED)


@pytest.mark.parametrize("name", stacks.NAMED)
def test_a_named_layout_builds_injectively_from_0_on_and_says_where_it_was_read(name):
    make = stacks.NAMED[name]
    found = make(*ARGUMENTS[name])
    assert "source" in (inspect.getdoc(make) or "").lower()
    layouts = [part.layout for part in found.fields.values()] if isinstance(found, Record) else [found]
    for layout in layouts:
        assert isinstance(layout, NamedLayout)
        indices = np.indices([layout.size(axis) for axis in layout.axes], sparse=True)
        offsets = layout.offsets(**dict(zip(layout.axes, indices, strict=True)))
        assert len(np.unique(offsets)) == offsets.size
        if not isinstance(found, Record) and name not in SHARED:
            assert offsets.min() == 0
    assert make(*ARGUMENTS[name]) == found


@pytest.mark.parametrize("name", sorted(set(stacks.NAMED) - SHARED - {"smem_atom"}))
def test_a_size_of_zero_half_or_a_word_is_refused_in_one_line(name):
    arguments = list(ARGUMENTS[name])
    for place in range(len(arguments)):
        for nonsense in (0, -3, 1.5, "16", True, 10**30):
            changed = [*arguments[:place], nonsense, *arguments[place + 1 :]]
            with pytest.raises(ValueError, match=r"^[^\n]{1,300}$"):
                stacks.NAMED[name](*changed)


@pytest.mark.parametrize("name", stacks.TABLES)
def test_a_form_of_tables_says_where_it_was_read(name):
    assert "Source:" in (inspect.getdoc(stacks.TABLES[name]) or "")
