"""Models of MAE-DFER, SVFAP, HiCMAE and VideoMAE in one vocabulary of blocks."""

from hicmae.models.convert import LoadReport, load_checkpoint
from hicmae.models.factory import (
    arguments_for,
    create_model,
    list_models,
    model_arguments,
    read_weights,
    save_weights,
)
from hicmae.models.mae import MaskedAutoencoder, Reconstruction

__all__ = [
    "LoadReport",
    "MaskedAutoencoder",
    "Reconstruction",
    "arguments_for",
    "create_model",
    "list_models",
    "load_checkpoint",
    "model_arguments",
    "read_weights",
    "save_weights",
]
