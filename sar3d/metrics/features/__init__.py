"""Metrics of pictures by networks: Fréchet and kernel distances of their features, picture quality, CLIP similarity.

FID and KID are these distances on FID-Inception with its published weights, and on nothing else: any other network, and
other weights, give numbers of another name (`frechet_efficientnet`). The resize is part of a number's name unless it is
the clean one.
"""
