"""How rows reach a training process: the order of samples, row groups, indices, decoding ahead."""
