"""What people do with a trained model: predict a video, look at a reconstruction."""

from hicmae.inference.loading import Loaded, load_model, opened
from hicmae.inference.people import Boxes, Person, WindowPrediction
from hicmae.inference.predict import predict_clip
from hicmae.inference.prediction import Prediction
from hicmae.inference.processor import ModelInput, Processor
from hicmae.inference.reconstruct import reconstruct_clip

__all__ = [
    "Boxes",
    "Loaded",
    "ModelInput",
    "Person",
    "Prediction",
    "Processor",
    "WindowPrediction",
    "load_model",
    "opened",
    "predict_clip",
    "reconstruct_clip",
]
