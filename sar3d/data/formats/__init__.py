"""What lies on disk: rows of the Parquet datasets, their schemas, PNG files and published chunks."""
