"""What every run needs and no modality knows: devices, optimiser, checkpoints, the loop, logs, metrics, the page."""

__all__ = ["charts", "checkpoint", "dist", "log", "loop", "metrics", "optim", "page"]
