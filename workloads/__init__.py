"""Floor 2: what a machine is asked to do. Models, batches and page tables become kernels, kernels programs.

`model` says how large the tensors are, `batch` how many tokens every sequence holds, `paging` where their
pages lie; from these the kernels compile programs for the machine. No randomness of its own: generators are
passed in. Only the files a caller names and the facts shipped beside this module are read.
"""
