"""Fine-tuning and evaluation: labelled shards and a checkpoint in, a measured model out."""

from hicmae.finetune.comparing import against, told_against
from hicmae.finetune.config import FinetuneConfig, FinetuneData, TaskConfig
from hicmae.finetune.engine import build_model, run
from hicmae.finetune.evaluation import evaluate
from hicmae.finetune.folds import run_folds, summary_by
from hicmae.finetune.report import Report
from hicmae.finetune.summary import Summary
from hicmae.finetune.tasks import Classification, Joint, MultiLabel, Regression, SoftLabels
from hicmae.finetune.values import ValueReport

__all__ = [
    "Classification",
    "FinetuneConfig",
    "FinetuneData",
    "Joint",
    "MultiLabel",
    "Regression",
    "Report",
    "SoftLabels",
    "Summary",
    "TaskConfig",
    "ValueReport",
    "against",
    "build_model",
    "evaluate",
    "run",
    "run_folds",
    "summary_by",
    "told_against",
]
