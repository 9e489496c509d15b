"""GRPO in blocks on TRL; knows no tasks."""
