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
from hicmae.models.hicmae import HiCMAE, HiCMAEPretraining
from hicmae.models.mae import MaskedAutoencoder, Reconstruction
from hicmae.models.products import products_by
from hicmae.models.tower import Tower

__all__ = [
    "HiCMAE",
    "HiCMAEPretraining",
    "LoadReport",
    "MaskedAutoencoder",
    "Reconstruction",
    "Tower",
    "arguments_for",
    "create_model",
    "list_models",
    "load_checkpoint",
    "model_arguments",
    "products_by",
    "read_weights",
    "save_weights",
]
