"""Configs of runs: typed values from several sources, with origins. No torch, no gymnasium."""
