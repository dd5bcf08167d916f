"""Models and rows in the forms that others expect: bundles, repositories of the Hugging Face hub, MLflow models, datasets."""
