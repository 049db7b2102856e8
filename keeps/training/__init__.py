"""One training loop for all methods that learn by gradients: deterministic, resumable, on one process or many."""

from keeps.training.batches import TokenizedExample
from keeps.training.examples import tokenise
from keeps.training.history import TrainingHistory
from keeps.training.loop import train
from keeps.training.settings import TrainingSettings

__all__ = ["TokenizedExample", "TrainingHistory", "TrainingSettings", "tokenise", "train"]
