"""The kernels of one layer of a model, for one decode step or one prefill, on one device of a tensor-parallel group.

From a `model.Layer` and the lengths of a batch to the steps of a `sequence`: heads, and the inner sizes of MLP and
experts, are divided by the degree of tensor parallelism. Each step is a kernel over tensors of its own, with its
template's candidates or default knobs, or the first smaller tiles that fit the machine.

Not modelled: the exchange between devices, the convolution of linear attention, the append of latents, of compressed
entries, of index keys and of a ragged prefill's keys and values, the selection in a prefill of latents that its
indexer's top-k covers, the multiplication by gates, rotary embedding of latents, norms of single heads and those beyond
one before attention and one before the feed forward, biases, the append of values narrower than keys at their own
width, and weights and caches narrower than 16 bits. Of DeepSeek V4, also the copies of the embedding to all streams,
and the table by which the first layers choose experts, for which they take the router's choice.
"""
