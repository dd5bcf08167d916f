"""The service: models behind HTTP. `models` computes, `app` answers, `door` lets in, `cluster` puts both on Ray Serve."""
