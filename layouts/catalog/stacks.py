"""The layouts of the serving stacks by name.

`NAMED` lists every constructor under the name by which the stacks' layouts are known; each returns a `NamedLayout` over
elements or a `Record` over bytes, and states its source.  Forms that depend on data are under `TABLES`: they read the
arrays that a kernel is given.

Not modelled: which stack version uses which layout; the docstrings say which version was read.
"""

from collections.abc import Callable

from layouts.catalog import kv, mla, moe, page_map, scales, smem
from layouts.catalog.record import Record
from layouts.notation import NamedLayout

NAMED: dict[str, Callable[..., NamedLayout | Record]] = {
    "fi_nhd": kv.fi_nhd,
    "fi_hnd": kv.fi_hnd,
    "fi_tuple": kv.fi_tuple,
    "vllm_fa": kv.vllm_fa,
    "vllm_fi": kv.vllm_fi,
    "vllm_stride_order": kv.vllm_strided,
    "vllm_paged_v1": kv.vllm_paged_v1,
    "sgl_nhd": kv.sgl_nhd,
    "sgl_hnd": kv.sgl_hnd,
    "sgl_vec5d": kv.sgl_vec5d,
    "sgl_token_major": kv.sgl_token_major,
    "sgl_token_major_mla": kv.sgl_token_major_mla,
    "trtllm_pool": kv.trtllm_pool,
    "trtllm_recurrent_pool": kv.trtllm_recurrent_pool,
    "trtllm_scales": kv.trtllm_scales,
    "ragged": page_map.ragged,
    "ragged_mask": page_map.ragged_mask,
    "mla_bf16": mla.mla_bf16,
    "mla_split": mla.mla_split,
    "flashmla_dense": mla.flashmla_dense,
    "fp8_ds_mla": mla.fp8_ds_mla,
    "model1_mla": mla.model1_mla,
    "indexer_fp8": mla.indexer_fp8,
    "indexer_fp4": mla.indexer_fp4,
    "indexer_preshuffle": mla.indexer_preshuffle,
    "vllm_nvfp4": mla.vllm_nvfp4,
    "nvfp4_data": mla.nvfp4_data,
    "nvfp4_scales": mla.nvfp4_scales,
    "sf_128x4": scales.sf_128x4,
    "sf_8x4": scales.sf_8x4,
    "sf_linear": scales.sf_linear,
    "deepgemm_sfa": scales.deepgemm_sfa,
    "deepgemm_sfb": scales.deepgemm_sfb,
    "deepgemm_packed": scales.deepgemm_packed,
    "deepgemm_utccp": scales.deepgemm_utccp,
    "mixed_input_scales": scales.mixed_input_scales,
    "moe_major_k": moe.moe_major_k,
    "moe_major_mn": moe.moe_major_mn,
    "moe_block_major_k": moe.moe_block_major_k,
    "gated_interleave": moe.gated_interleave,
    "deepgemm_l1": moe.deepgemm_l1,
    "epilogue_shuffle": moe.epilogue_shuffle,
    "shuffled_sf": moe.shuffled_sf,
    "sm90_mixed_weights": moe.sm90_mixed_weights,
    "masked_groups": moe.masked_groups,
    "deepep_recv": moe.deepep_recv,
    "deepep_scales": moe.deepep_scales,
    "smem_atom": smem.smem_atom,
    "smem_tile": smem.smem_tile,
}

TABLES: dict[str, Callable[..., page_map.PageMap | moe.Routing | moe.Groups]] = {
    "csr_pages": page_map.csr_pages,
    "block_table_pages": page_map.block_table_pages,
    "token_slots": page_map.token_slots,
    "trtllm_pages": page_map.trtllm_pages,
    "align_blocks": moe.align_blocks,
    "contiguous_groups": moe.contiguous_groups,
}
