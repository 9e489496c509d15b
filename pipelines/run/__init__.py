"""A run's life: checked, built, logged, halted, resumed."""
