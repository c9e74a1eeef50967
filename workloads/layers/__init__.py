"""The kernels of one layer of a model, for one pass of new tokens, on one device of a tensor-parallel group.

From a `model.Layer` and what is `scheduled` to the steps of a `sequence`: heads, and the inner sizes of MLP and
experts, are divided by the degree of tensor parallelism. Products, norms and experts run over all new tokens at once;
attention and the append run by parts: sequences that decode, by how many tokens of theirs are new, and prompts and
their chunks. Each step is a kernel with its template's candidates or default knobs, or the first smaller tiles that fit
the machine. Its tensors are values that steps before it store, or parts of them, wherever types and layouts allow; the
names `RESULT` and `STREAM` pass from layer to layer. Weights are read once per step whatever is in it, but those that
make keys and values from latents: once for prompts, which expand them, and once for all that attends in the absorbed
form. Weights and caches are in the formats that `formats` finds for them.

Not modelled: the exchange between devices, the convolution of linear attention, drafts with linear attention, the
append of latents, of compressed entries and of index keys, the part of a chunk's first compressed entry that waits in
fp32, the selection in a prefill of latents that its indexer's top-k covers, the multiplication by gates, rotary
embedding of latents, norms of single heads and those beyond one before attention and one before the feed forward,
biases, the append of values narrower than keys at their own width, and products in batches, or of latents in a prefill,
with weights of fewer than 16 bits, of which a note of the step says so. Of DeepSeek V4, also the copies of the
embedding to all streams, and the table by which the first layers choose experts, for which they take the router's
choice.
"""
