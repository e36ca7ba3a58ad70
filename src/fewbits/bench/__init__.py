# SPDX-License-Identifier: MIT
"""What the scripts in benchmarks/ measure with: metrics, other codecs, Bjontegaard rates. Nothing here imports torch."""
