"""Folders of label maps to folders of clips: planned, made, and noted in a manifest."""

from seg2vid_cli.batch.run import BatchOptions, BatchSummary, run_batch

__all__ = ["BatchOptions", "BatchSummary", "run_batch"]
