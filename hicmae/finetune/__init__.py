"""Fine-tuning and evaluation: labelled shards and a checkpoint in, a measured classifier out."""

from hicmae.finetune.config import FinetuneConfig, FinetuneData
from hicmae.finetune.engine import build_model, run
from hicmae.finetune.evaluation import evaluate
from hicmae.finetune.report import Report
from hicmae.finetune.tasks import Classification

__all__ = ["Classification", "FinetuneConfig", "FinetuneData", "Report", "build_model", "evaluate", "run"]
