"""KerasTuner search spaces and searches over the models."""
