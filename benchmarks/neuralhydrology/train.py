"""Trains neuralhydrology with its own trainer, and tells its parent how skill grows with time.

`python -P train.py JSON`, in the environment of requirements.txt; nothing of this project can be
imported there. Its dataset, loader, model, loss, optimiser, trainer and tester are used as they
are, with two hooks: the loader is cut into short epochs and timed (`Batches`), so that the trainer
validates every few updates; the tester is timed and its median NSE told (`Validation`).
Standard output is a JSON object a line; whatever the library prints goes to standard error.
Not here: its settings (config.yml), what the lines are used for (benchmarks/time_to_skill.py).
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from neuralhydrology.datasetzoo.basedataset import BaseDataset
from neuralhydrology.evaluation.tester import BaseTester
from neuralhydrology.training.basetrainer import BaseTrainer
from neuralhydrology.utils.config import Config
from torch.utils.data import DataLoader

CONFIG = Path(__file__).with_name("config.yml")
# The first updates of a trial wait for loader processes and for memory; the others are timed.
TRIAL_WARMUP, TRIAL_UPDATES, TRIAL_S = 4, 20, 30.0


class Batches:
    """The trainer's loader, cut into epochs of a few updates; also the clock of training.

    One pass over the shuffled samples goes on from one short epoch to the next, as it would within
    a whole one: nothing is shuffled anew and no loader process starts again.

    Parameters
    ----------
    loader
        What neuralhydrology made.
    epoch_updates
        Length of an epoch.
    cap_s
        An epoch ends early when training has taken that long.

    Attributes
    ----------
    updates, train_s, loading_s
        Updates made, seconds of training, and seconds of these until the batch was there.
    """

    def __init__(self, loader: DataLoader, epoch_updates: int, cap_s: float):
        self._loader, self.epoch_updates, self.cap_s = loader, epoch_updates, cap_s
        self._pass = iter(loader)
        self.updates = 0
        self.train_s = 0.0
        self.loading_s = 0.0

    @property
    def capped(self) -> bool:
        """Whether training has taken as long as it may."""
        return self.train_s >= self.cap_s

    def __len__(self) -> int:
        return self.epoch_updates

    def __iter__(self) -> Iterator[dict]:
        for _ in range(self.epoch_updates):
            started = time.perf_counter()
            batch = self._next()
            self.loading_s += time.perf_counter() - started
            # The trainer asks for the next batch when the update with this one is done.
            yield batch
            self.train_s += time.perf_counter() - started
            self.updates += 1
            if self.capped:
                return

    def _next(self) -> dict:
        try:
            return next(self._pass)
        except StopIteration:
            self._pass = iter(self._loader)
            return next(self._pass)


class Validation:
    """The trainer's tester, timed; tells the median NSE and ends the training when it is enough."""

    def __init__(self, tester: BaseTester, batches: Batches, target_nse: float):
        self._tester, self._batches, self._target_nse = tester, batches, target_nse
        self._validation_s = 0.0

    def evaluate(self, **asked) -> dict:
        """Validate as the trainer asked."""
        started = time.perf_counter()
        results = self._tester.evaluate(**asked)
        self._validation_s += time.perf_counter() - started
        scores = [by_frequency["1D"].get("NSE", np.nan) for by_frequency in results.values()]
        nse = float(np.nanmedian(scores))
        tell(
            "validated",
            updates=self._batches.updates,
            train_s=self._batches.train_s,
            loading_s=self._batches.loading_s,
            validation_s=self._validation_s,
            nse=nse,
            basins=int(np.isfinite(scores).sum()),
        )
        if nse >= self._target_nse or self._batches.capped:
            tell("finished")
            sys.exit()
        return results


class Trainer(BaseTrainer):
    """neuralhydrology's trainer, which keeps its training data at hand for `fastest_loader`."""

    def _get_dataset(self) -> BaseDataset:
        self.dataset = super()._get_dataset()
        return self.dataset


def fastest_loader(trainer: Trainer, cores: int) -> DataLoader:
    """Try numbers of loader processes and of torch threads, and keep the fastest two.

    What the trials taught the model is taken back.
    """
    untrained = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    rates = {}
    for workers in (0, 1, 2, 8):
        for threads in sorted({cores - workers, cores}):
            if workers > cores or threads < 1:
                continue
            torch.set_num_threads(threads)
            trainer.loader = Batches(loader_with(trainer, workers), TRIAL_WARMUP, TRIAL_S)
            trainer._train_epoch(epoch=0)
            rate = timed_rate(trainer)
            rates[workers, threads] = rate
            tell("tried", workers=workers, threads=threads, updates_per_s=rate)
    workers, threads = max(rates, key=rates.__getitem__)
    torch.set_num_threads(threads)
    trainer.model.load_state_dict(untrained)
    trainer.optimizer = trainer._get_optimizer()
    trainer.experiment_logger.summarise()
    tell("chosen", workers=workers, threads=threads)
    return loader_with(trainer, workers)


def timed_rate(trainer: Trainer) -> float:
    """Updates a second of a trial that has warmed up."""
    trial = trainer.loader
    updates, seconds = trial.updates, trial.train_s
    trial.epoch_updates, trial.cap_s = TRIAL_UPDATES, seconds + TRIAL_S
    trainer._train_epoch(epoch=0)
    return (trial.updates - updates) / (trial.train_s - seconds)


def loader_with(trainer: Trainer, workers: int) -> DataLoader:
    """neuralhydrology's loader with a number of processes."""
    trainer.cfg.update_config({"num_workers": workers})
    return trainer._get_data_loader(trainer.dataset)


def main(asked: dict) -> None:
    """Train until a validation reaches `target_nse`, or for `cap_s` seconds of training."""
    started = time.perf_counter()
    cfg = Config(CONFIG)
    cfg.update_config(asked["settings"] | {"num_workers": 0})
    trainer = Trainer(cfg)
    trainer.initialize_training()
    tell(
        "ready",
        preparation_s=time.perf_counter() - started,
        basins=len(trainer.basins),
        samples=len(trainer.dataset),
        parameters=sum(p.numel() for p in trainer.model.parameters()),
    )
    loader = fastest_loader(trainer, len(os.sched_getaffinity(0)))
    batches = Batches(loader, asked["updates_per_validation"], asked["cap_s"])
    trainer.loader = batches
    trainer.validator = Validation(trainer.validator, batches, asked["target_nse"])
    trainer.train_and_validate()


def tell(event: str, **values: object) -> None:
    """One line to the parent."""
    print(json.dumps({"event": event} | values), file=LINES, flush=True)


if __name__ == "__main__":
    LINES = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main(json.loads(sys.argv[1]))
