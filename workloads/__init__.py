"""Floor 2: what a machine is asked to do. Models, batches and page tables become kernels, kernels programs.

`model` says how large the tensors are, `traces` which requests come, `batch` how many tokens every sequence holds and
`replay` which of them are served together step by step, `prefix` which begin alike; `paging` says where their pages
lie and `placement` where all tensors do. From these the kernels compile programs for the machine. No randomness of its
own: generators are passed in. Only the files a caller names and the facts shipped beside this module are read.
"""
