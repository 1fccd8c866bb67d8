"""Heads that segment from streams of patch tokens: 1x1 convolutions, U-Net, nearest tokens, and their losses."""
