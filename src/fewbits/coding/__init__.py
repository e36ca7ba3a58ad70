# SPDX-License-Identifier: MIT
"""Integers <-> bytes. Knows probabilities and streams; knows nothing of pictures, files or networks."""
