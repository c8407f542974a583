"""neuralhydrology 1.13 as a peer: its environment, its files, its settings, its training.

environment.py makes an environment of its own from requirements.txt; files.py lays the data out as
its reader wants them; config.yml has its recommended settings; train.py runs in that environment.
Not here: what is compared with what (benchmarks/time_to_skill.py).
"""
