"""Learning from donors: what a training job is, the network, the engines, and their checkpoints.

Jobs, arrays and scalers are plain numpy; torch is imported by the network and the engines only.
Whoever wants models trained calls `training.train`; nothing here knows of Dagster or MLflow.
"""
