"""The training engine: numpy and torch only, so that it can be carried to any machine with a torch.

One model on a CPU: cpu.py, with batches, averages, variants. Groups of models on a GPU: gpu.py,
with groups, members, grouped_*, device_draws, kernels. Both: course, validation, running, draws,
windows, network, losses. Not here: jobs, scalers, statics, files, processes (models/).
"""
