"""The page that shows a root: what is read (`collect`), how it is drawn (`page`)."""
