"""The contract between the stages: feature stores, written once by `extract`, read many times by `fuse`."""

from mambavl.cache.join import Joined, JoinError, join
from mambavl.cache.reader import FeatureStore, open_store

__all__ = ["FeatureStore", "JoinError", "Joined", "join", "open_store"]
