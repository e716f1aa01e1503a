"""From a person's copy of a corpus to labelled, folded clips, as its card says; and how the copy differs from it."""

from hicmae.datasets.corpora.differences import compare
from hicmae.datasets.corpora.reading import inputs, read_corpus

__all__ = ["compare", "inputs", "read_corpus"]
