"""What people do with a trained model: predict a video, look at a reconstruction."""

from hicmae.inference.loading import Loaded, load_model
from hicmae.inference.predict import Prediction, WindowPrediction, predict_clip
from hicmae.inference.reconstruct import reconstruct_clip

__all__ = ["Loaded", "Prediction", "WindowPrediction", "load_model", "predict_clip", "reconstruct_clip"]
