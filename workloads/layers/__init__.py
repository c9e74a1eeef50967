"""The kernels of one layer of a model, for one pass of new tokens, on one device of a tensor-parallel group.

From a `model.Layer` and what is `scheduled` to the steps of a `sequence`: heads, and the inner sizes of MLP and
experts, are divided by the degree of tensor parallelism. Products, norms and experts run over all new tokens at once;
attention and the append run by parts: sequences that decode, by how many tokens of theirs are new, and prompts and
their chunks. Each step is a kernel with its template's candidates or default knobs, or the first smaller tiles that fit
the machine. Its tensors are values that steps before it store, or parts of them, wherever types and layouts allow; the
names `RESULT` and `STREAM` pass from layer to layer. Weights are read once per step whatever is in it, but those that
make keys and values from latents: once for prompts, which expand them, and once for all that attends in the absorbed
form. Weights and caches are in the formats that `formats` finds for them.

Not modelled: drafts with linear attention; products in batches, or of latents in a prefill, with weights of fewer than
16 bits, of which a note of the step says so; and what `left_out` lists for the model at hand, with a note for each.
"""
