"""What Envoys are assigned of limits, which they then apply by themselves."""
