# SPDX-License-Identifier: MIT
"""A bundle at work, without torch: parsed bundles, engines that run their networks, and the coding pipelines."""
