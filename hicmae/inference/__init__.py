"""What people do with a trained model: predict a video, look at a reconstruction."""

from hicmae.inference.embed import Embedding, embed_clip
from hicmae.inference.embed_jobs import EmbedResult, embed_many
from hicmae.inference.embed_read import Asked
from hicmae.inference.export import Exported, export_model
from hicmae.inference.loading import Loaded, load_model, opened
from hicmae.inference.people import Boxes, Person, WindowPrediction
from hicmae.inference.predict import predict_clip
from hicmae.inference.prediction import Prediction
from hicmae.inference.processor import ModelInput, Processor
from hicmae.inference.reconstruct import reconstruct_clip

__all__ = [
    "Asked",
    "Boxes",
    "EmbedResult",
    "Embedding",
    "Exported",
    "Loaded",
    "ModelInput",
    "Person",
    "Prediction",
    "Processor",
    "WindowPrediction",
    "embed_clip",
    "embed_many",
    "export_model",
    "load_model",
    "opened",
    "predict_clip",
    "reconstruct_clip",
]
