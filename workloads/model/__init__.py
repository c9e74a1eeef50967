"""Models: the sizes of their layers, read from hub configurations or from the facts shipped here.

`model` (layers and what follows from them) is made of `attention`, `compressed`, `linear` and `feed_forward`;
`architectures` say how a file's `fields` become layers, `load` finds and reads the file.
"""

from workloads.model.architectures import ARCHITECTURES
from workloads.model.attention import Attention, Indexer, LatentAttention, SoftmaxAttention
from workloads.model.compressed import CompressedAttention, Compressor
from workloads.model.feed_forward import Dense, Experts, FeedForward
from workloads.model.linear import LinearAttention
from workloads.model.load import MAX_FILE_BYTES, load_model, model_names
from workloads.model.model import DTYPE_BYTES, KV_DTYPE_BYTES, Layer, LayerGroup, Model, Quantisation, grouped

__all__ = [
    "ARCHITECTURES",
    "DTYPE_BYTES",
    "KV_DTYPE_BYTES",
    "MAX_FILE_BYTES",
    "Attention",
    "CompressedAttention",
    "Compressor",
    "Dense",
    "Experts",
    "FeedForward",
    "Indexer",
    "LatentAttention",
    "Layer",
    "LayerGroup",
    "LinearAttention",
    "Model",
    "Quantisation",
    "SoftmaxAttention",
    "grouped",
    "load_model",
    "model_names",
]
