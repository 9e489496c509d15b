"""What is asked and how it is scored: bouts, referee, both games, gate, curriculum, audit.

No TRL and no vLLM; torch in `evaluation.py` alone.
"""
